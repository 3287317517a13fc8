"""What happens to an action on its way to the actuators: clip, delay in substeps, low-pass."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from support import plain
from support.envs import MDP, Player, cartpole_task
from support.terms import context, simulation

from ksim.config.compose import compose
from ksim.envs.managers import ActionManager
from ksim.envs.scene import build_scene
from ksim.envs.settings import ActionSettings
from ksim.envs.terms import resolve
from ksim.errors import ConfigError
from ksim.mdp.actions import joint_effort

S, DT = 4, 0.01  # substeps of 0.01 s
TERM = {"_target_": f"{MDP}.actions.joint_effort", "joints": "slider", "scale": 1.0}


@pytest.fixture(scope="module")
def scene():
    scene = build_scene(compose(["task=cartpole_balance"]).task)
    scene.set_control({"slider": "effort"})
    return scene


@pytest.fixture(scope="module")
def kbot():
    return build_scene(compose(["task=kbot_standing"]).task)


def controls(scene, action_TE, seed=0, **settings):
    """Controls of all substeps in several envs, (T * S, E), from the first step of an episode on."""
    manager = ActionManager(resolve("task.actions", {"force": TERM | settings}, ActionSettings), scene, S)
    data = simulation(scene)
    num_envs = np.shape(action_TE)[1]

    def init(key):
        ctx = context(scene, data)
        return manager.init_memory(ctx, key)

    def step(memory, action, key):
        ctx = context(scene, data, memory=memory)
        ctrl_Su, changed = manager.compute(ctx, action[None], key)
        return memory | changed, ctrl_Su[:, 0]

    keys = jax.random.split(jax.random.key(seed), (len(action_TE) + 1, num_envs))
    memory, rows = jax.vmap(init)(keys[0]), []
    step = jax.jit(jax.vmap(step))
    for action_E, key_E in zip(np.float32(action_TE), keys[1:], strict=True):
        memory, ctrl_ES = step(memory, action_E, key_E)
        rows.append(np.asarray(ctrl_ES).T)
    return np.concatenate(rows)


def held(action_TE):
    """Without delay and filter: each action in all of its substeps."""
    return np.repeat(action_TE, S, axis=0)


ACTIONS = np.random.default_rng(0).uniform(-2, 2, (8, 3))


def test_actions_are_clipped_in_their_own_unit(scene):
    got = controls(scene, ACTIONS, clip=[-0.5, 1.0], scale=2.0)
    np.testing.assert_allclose(got, held(2.0 * np.clip(ACTIONS, -0.5, 1.0)), rtol=1e-6)


@pytest.mark.parametrize("lag", [0, 1, 3, 4, 6, 9])
def test_a_delay_is_of_substeps(scene, lag):
    """6 substeps late is one env step and a half; before the first action has arrived, the control is that of rest."""
    got = controls(scene, ACTIONS, delay={"range_s": [lag * DT, lag * DT]})
    late = np.concatenate([np.zeros((lag, 3)), held(ACTIONS)])[: len(got)]
    np.testing.assert_allclose(got, late, rtol=1e-6)


def lag_of(control_S, actions):
    """By how many substeps each change of the control comes late, of actions that are all different."""
    changes = np.flatnonzero(np.diff(control_S, prepend=0.0))
    return [int(t) - S * int(np.argmin(np.abs(actions - control_S[t]))) for t in changes]


def test_a_delay_is_drawn_for_each_env(scene):
    """0 to 0.05 s are 0 to 5 substeps, the ends half as likely; it holds for the episode."""
    actions = np.tile(np.linspace(0.5, 2.0, 5)[:, None], (1, 2000))
    got = controls(scene, actions, delay={"range_s": [0.0, 5 * DT]})
    first = np.argmax(got != 0, axis=0)
    share = np.bincount(first, minlength=6) / 2000
    np.testing.assert_allclose(share, [0.1, 0.2, 0.2, 0.2, 0.2, 0.1], atol=0.04)
    for env in range(50):
        assert set(lag_of(got[:, env], actions[:, env])) == {first[env]}


def test_a_delay_may_change_from_step_to_step(scene):
    """Held with probability 0.5 where it does, and else drawn anew: 0 or 2 substeps, seen where a new action comes."""
    actions = np.tile(np.linspace(0.5, 2.0, 40)[:, None], (1, 300))
    got = controls(scene, actions, delay={"range_s": [0.0, 0.01], "hold_probability": 0.5}).reshape(40, S, 300)
    late = got[:, 0] != np.float32(actions)
    assert late.mean() == pytest.approx(0.5, abs=0.02)  # 0 or 1 substep, equally likely
    assert np.mean(late[1:] == late[:-1]) == pytest.approx(0.75, abs=0.02)


def test_a_low_pass_is_of_first_order(scene):
    """A step of the action is approached as 1 - exp(-2 pi f t), from rest, substep by substep, across env steps."""
    got = controls(scene, np.full((5, 1), 1.5), low_pass_hz=3.0)
    t = DT * np.arange(1, 5 * S + 1)
    np.testing.assert_allclose(got[:, 0], 1.5 * (1 - np.exp(-2 * np.pi * 3.0 * t)), rtol=1e-4)


def test_a_delay_comes_before_the_filter(scene):
    got = controls(scene, np.full((5, 1), 1.5), low_pass_hz=3.0, delay={"range_s": [3 * DT, 3 * DT]})
    plain = controls(scene, np.full((5, 1), 1.5), low_pass_hz=3.0)
    np.testing.assert_allclose(got[3:], plain[:-3], rtol=1e-5)
    assert not got[:3].any()


def test_an_episode_starts_with_the_home_pose(kbot):
    """Not with targets of 0: a hip that is bent at home stays bent until the first action comes through."""
    home = kbot.home_joint_pos[0]
    assert kbot.joint_names[0] == "dof_left_hip_pitch_04" and home > 0.3
    hip = {"_target_": f"{MDP}.actions.joint_position", "joints": kbot.joint_names[0], "scale": 0.1}
    dt = kbot.model.opt.timestep
    late = controls(kbot, ACTIONS, **hip, delay={"range_s": [6 * dt, 6 * dt]})
    np.testing.assert_allclose(late, home + np.concatenate([np.zeros((6, 3)), held(0.1 * ACTIONS)[:-6]]), rtol=1e-5)
    smooth = controls(kbot, np.ones((5, 1)), **hip, low_pass_hz=3.0)
    t = dt * np.arange(1, 5 * S + 1)
    np.testing.assert_allclose(smooth[:, 0], home + 0.1 * (1 - np.exp(-2 * np.pi * 3.0 * t)), rtol=1e-5)


def test_actions_see_what_events_have_just_written():
    """A force that is the position and the action, where a step event has moved the cart by 0.5 m before."""

    def move(ctx, key):
        return {"qpos": ctx.qpos.at[0].set(ctx.episode_step + 0.5)}

    def follow(scene):
        return replace(joint_effort(scene), relative=True)

    terms = {"force": {"_target_": f"{MDP}.observations.actuator_force"}}
    player = Player(
        cartpole_task(
            actions={"force": {"_target_": follow}},
            observations={"actor": {"terms": terms}},
            events={"move": {"_target_": move, "mode": "step"}},
        )
    )
    for age, step in enumerate(player.play(np.full((3, 2, 1), 0.25))):
        np.testing.assert_allclose(step.out.obs["actor"], age + 0.75, rtol=1e-6)


def test_a_reset_empties_what_is_on_its_way():
    """In the env that ends alone. A delay of three substeps, so that an action comes in the middle of an env step."""
    action = {"force": TERM | {"scale": 10.0, "delay": {"range_s": [0.03, 0.03]}}}
    player = Player(
        cartpole_task(
            actions=action,
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            episode_length_s=0.1,
        )
    )
    model = player.env.scene.model
    steps = player.play(np.ones((12, 2, 1)), random_age=True)
    age = np.zeros(2, int)
    for step in steps:
        before = step.before.envs.physics
        for env in np.flatnonzero(~step.out.done):
            data = plain.make(model, before.qpos[env], before.qvel[env], before.qacc_warmstart[env])
            plain.step(model, data, [[10.0 * (2 * age[env] + substep >= 3)] for substep in (0, 1)])
            np.testing.assert_allclose(step.after.envs.physics.qvel[env], data.qvel, atol=1e-6)
        age = np.where(step.out.done, 0, age + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low_pass_hz": 0}, "task.actions.force: 'low_pass_hz' must be positive, not 0.0"),
        ({"clip": [1, -1]}, "task.actions.force: 'clip' must be [lowest, highest], not [1.0, -1.0]"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        resolve("task.actions", {"force": TERM | settings}, ActionSettings)
    assert str(error.value) == message
