"""A step of the env against plain MuJoCo: what is computed, in which order, and what a reset leaves alone."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from support import plain
from support.envs import MDP, Player, cartpole_task, kbot_task, own, same

from ksim.envs.tree import with_envs

E, T, MAX_STEPS = 6, 35, 10
LOW = 2.155  # height of the tip where the pole leans by 0.3 rad, m


def tip(ctx):
    """Position of the pole's tip: a derived field, so that staleness would show."""
    return ctx.site_xpos[ctx.scene.find("site", "tip")[0]]


def force(ctx):
    return ctx.actuator_force


def fell(ctx):
    return tip(ctx)[2] < LOW


def late_and_right(ctx):
    """Ends the episode in the step of the time-out where the cart is right of the middle."""
    return (ctx.episode_step >= MAX_STEPS) & (ctx.joint_pos[0] > 0)


def gone(ctx):
    """The task says that this cuts the episode, like a time-out."""
    return ctx.joint_pos[0] > 0.25


def wind(ctx, key):
    """A step event: the cart is moved before the actions."""
    return {"qpos": ctx.qpos.at[0].add(0.01), "qvel": ctx.qvel}


def never(ctx):
    raise AssertionError("a term of weight 0 is evaluated")


def cartpole(engine):
    terms = {
        "pos": {"_target_": f"{MDP}.observations.joint_pos"},
        "tip": {"_target_": tip},
        "force": {"_target_": force},
        "last_action": {"_target_": f"{MDP}.observations.last_action"},
    }
    return Player(
        cartpole_task(
            observations={"actor": {"terms": terms}, "critic": {"terms": terms}},
            rewards={
                "tip": {"_target_": lambda ctx: tip(ctx)[2], "weight": 2.0},
                "alive": {"_target_": f"{MDP}.rewards.alive", "weight": 1.0},
                "terminated": {"_target_": f"{MDP}.rewards.terminated", "weight": -5.0},
                "rate": {"_target_": f"{MDP}.rewards.action_rate", "weight": -0.1},
                "cut": {"_target_": lambda ctx: 1.0 * ctx.truncated, "weight": 3.0},
                "nothing": {"_target_": never, "weight": 0.0},
            },
            terminations={
                "fell": {"_target_": fell},
                "gone": {"_target_": gone, "time_out": True},
                "late": {"_target_": late_and_right},
                "time_out": {"_target_": f"{MDP}.terminations.time_out"},
            },
            events={
                "joints": {
                    "_target_": f"{MDP}.events.reset_joints",
                    "mode": "reset",
                    "position_range": [-0.2, 0.2],
                    "velocity_range": [-0.5, 0.5],
                },
                "wind": {"_target_": wind, "mode": "step"},
            },
            episode_length_s=0.2,
        ),
        engine,
    )


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def player(request):
    return cartpole(request.param)


@pytest.fixture(scope="module")
def steps(player):
    return player.play(np.random.default_rng(0).uniform(-1, 1, (T, E, 1)))


@pytest.fixture(scope="module")
def truth(player, steps):
    """For each step and env, a plain simulation of the step: the event, the clipped force, two substeps."""
    model = player.env.scene.model
    atol = 0.0 if player.env.physics.__class__.__name__ == "BatchPhysics" else 1e-4

    def simulate(step, env):
        physics = step.before.envs.physics
        qpos = physics.qpos[env] + np.array([0.01, 0.0], np.float32)  # the step event, before the action
        data = plain.make(model, qpos, physics.qvel[env], physics.qacc_warmstart[env])
        ctrl = np.clip(10.0 * step.action[env], -10, 10)
        return plain.step(model, data, [ctrl, ctrl])

    return [[simulate(step, env) for env in range(E)] for step in steps], atol


def observed(model, data, action):
    return np.concatenate([data.qpos, data.site("tip").xpos, data.actuator_force, action])


def test_the_rollout_has_every_kind_of_end(steps):
    """What the tests below rely on."""
    terminated, truncated = (np.stack([getattr(s.out, n) for s in steps]) for n in ("terminated", "truncated"))
    assert (terminated & ~truncated).any() and (truncated & ~terminated).any() and (terminated & truncated).any()
    assert (~terminated & ~truncated).any()


def test_states_are_those_of_plain_mujoco(player, steps, truth):
    """Events come first, then the actions' controls in every substep; envs that go on keep exactly that state."""
    datas, atol = truth
    for step, row in zip(steps, datas, strict=True):
        for env in np.flatnonzero(~step.out.done):
            np.testing.assert_allclose(step.after.envs.physics.qpos[env], np.float32(row[env].qpos), rtol=0, atol=atol)
            np.testing.assert_allclose(
                step.after.envs.physics.qvel[env], np.float32(row[env].qvel), rtol=0, atol=10 * atol
            )


def test_the_terminal_observation_is_the_true_next_one(player, steps, truth):
    """In every env, whether its episode ends or not, and none of its fields is stale."""
    for step, row in zip(steps, truth[0], strict=True):
        for env in range(E):
            expected = observed(player.env.scene.model, row[env], step.action[env])
            for group in ("actor", "critic"):
                np.testing.assert_allclose(step.out.terminal_obs[group][env], expected, rtol=1e-4, atol=1e-4)


def test_where_the_episode_goes_on_the_observation_is_the_terminal_one(steps):
    for step in steps:
        on = ~step.out.done
        assert np.array_equal(step.out.obs["actor"][on], step.out.terminal_obs["actor"][on])


def test_a_reset_env_shows_its_own_fresh_state(player, steps):
    """In the same step; its fields come from a full forward pass of it alone, with the controls of a zero action."""
    model = player.env.scene.model
    seen = 0
    for step in steps:
        for env in np.flatnonzero(step.out.done):
            physics = step.after.envs.physics
            data = plain.forward(model, plain.make(model, physics.qpos[env], physics.qvel[env]), [0.0])
            np.testing.assert_allclose(step.out.obs["actor"][env], observed(model, data, [0.0]), rtol=1e-5, atol=1e-5)
            assert np.abs(step.out.obs["actor"][env] - step.out.terminal_obs["actor"][env]).max() > 1e-3
            assert np.all(np.abs(physics.qpos[env]) <= 0.2) and not physics.qacc_warmstart[env].any()
            assert step.after.envs.episode_step[env] == 0
            assert not step.after.envs.action[env].any() and not step.after.envs.prev_action[env].any()
            seen += 1
    assert seen > 10


def test_terminations_judge_the_new_state(steps, truth):
    """Falls terminate; time-outs and what the task flags as one truncate; an env may be both; each verdict is told."""
    age, seen = np.zeros(E, int), np.zeros(2, int)
    for step, row in zip(steps, truth[0], strict=True):
        age += 1
        assert np.array_equal(step.before.envs.episode_step + 1, age)
        fell = np.array([data.site("tip").xpos[2] < LOW for data in row])
        gone = np.array([data.joint("slider").qpos[0] > 0.25 for data in row])
        late = (age >= MAX_STEPS) & np.array([data.joint("slider").qpos[0] > 0 for data in row])
        assert np.array_equal(step.out.ends["fell"], fell)
        assert np.array_equal(step.out.ends["gone"], gone)
        assert np.array_equal(step.out.ends["late"], late)
        seen += [fell.any(), (gone & (age < MAX_STEPS)).any()]
        assert np.array_equal(step.out.terminated, fell | late)
        assert np.array_equal(step.out.truncated, gone | (age >= MAX_STEPS))
        assert np.array_equal(step.out.done, step.out.terminated | step.out.truncated)
        age[step.out.done] = 0
    assert seen.all()


def test_the_reward_is_the_weighted_sum_of_the_terms(player, steps, truth):
    """Weights are rates: times the step's 0.02 s. Rewards come after terminations, of the true next state."""
    assert player.env.step_dt == pytest.approx(0.02)
    for step, row in zip(steps, truth[0], strict=True):
        for env in range(E):
            last_action = step.before.envs.action[env]
            expected = 2.0 * row[env].site("tip").xpos[2] + (1.0 - step.out.terminated[env])
            expected += 3.0 * step.out.truncated[env]
            expected += -5.0 * step.out.terminated[env] - 0.1 * np.sum((step.action[env] - last_action) ** 2)
            assert step.out.reward[env] == pytest.approx(0.02 * expected, rel=1e-4)


def test_actions_are_remembered(steps):
    """Until a reset, which puts zeros in their place."""
    for one, two in itertools.pairwise(steps):
        on = ~two.out.done
        assert np.array_equal(two.after.envs.action[on], two.action[on])
        assert np.array_equal(two.after.envs.prev_action[on], two.before.envs.action[on])
        fresh = one.out.done
        assert not two.before.envs.action[fresh].any() and np.array_equal(
            two.before.envs.action[~fresh], one.action[~fresh]
        )


def test_the_running_episode_is_kept_and_logged(player, steps):
    """Return, length and each term's mean rate of the episodes so far; the log sums those that end."""
    zero = {"return": 0.0, "length": 0.0, "tip": 0.0, "alive": 0.0}
    running = [dict(zero) for _ in range(E)]
    for step in steps:
        out, total = step.out, {"episodes": 0.0, "terminated": 0.0, "return": 0.0, "length": 0.0, "reward/alive": 0.0}
        for env in range(E):
            running[env]["return"] += out.reward[env]
            running[env]["length"] += 1
            running[env]["tip"] += 0.02 * 2.0 * out.terminal_obs["actor"][env, 4]
            running[env]["alive"] += 0.02 * (1.0 - out.terminated[env])
            seconds = 0.02 * running[env]["length"]
            assert out.episode["return"][env] == pytest.approx(running[env]["return"], rel=1e-5)
            assert out.episode["length"][env] == running[env]["length"]
            assert out.episode["reward/tip"][env] == pytest.approx(running[env]["tip"] / seconds, rel=1e-4)
            if out.done[env]:
                total["episodes"] += 1
                total["terminated"] += out.terminated[env]
                total["return"] += running[env]["return"]
                total["length"] += running[env]["length"]
                total["reward/alive"] += running[env]["alive"] / seconds
                running[env] = dict(zero)
        for name, value in total.items():
            assert out.log[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert out.log["termination/time_out"] == np.sum(out.ends["time_out"])
        assert out.log["nan_guard"] == 0 and out.log["not_finite/task.rewards.tip"] == 0
        assert set(out.log) >= {"reward/rate", "termination/fell"} and "reward/nothing" not in out.log


def edited(state, env, **fields):
    """A state with one env's physics changed."""
    physics = state.envs.physics
    for name, value in fields.items():
        x = np.array(getattr(physics, name))
        x[env] = value
        physics = replace(physics, **{name: x})
    return with_envs(state, physics=physics)


def test_a_reset_touches_no_other_env(player, steps):
    """An env ends at the same bits, random stream included, whether another one is reset or not."""
    step = next(step for step in steps[5:] if not step.out.done.any())
    others = np.arange(1, E)
    state, out = player.step(edited(step.before, 0, qpos=[0.0, 1.0]), step.action)
    assert out.done[0] and not out.done[1:].any()
    for got, expected in (
        (state.envs.physics, step.after.envs.physics),
        (out.obs, step.out.obs),
        (out.reward, step.out.reward),
    ):
        assert same(got, expected, others)
    assert same(own(state), own(step.after), others)


def test_a_reset_env_depends_on_no_other_env(player, steps):
    """The fresh state and all that is seen of it are the same bits whatever the other envs do."""
    step = next(step for step in steps[5:] if not step.out.done.any())
    one = edited(step.before, 0, qpos=[0.0, 1.0])
    two = edited(edited(one, 1, qpos=[0.1, 1.0]), 2, qpos=[-0.1, 0.1], qvel=[1.0, 0.3])
    (state_one, out_one), (state_two, out_two) = player.step(one, step.action), player.step(two, step.action)
    assert out_two.done[:2].all() and not same(state_one.envs.physics, state_two.envs.physics)
    for a, b in (
        (state_one.envs.physics, state_two.envs.physics),
        (out_one.obs, out_two.obs),
        (out_one.reward, out_two.reward),
    ):
        assert same(a, b, [0])


def test_resets_are_fresh(steps):
    """No two episodes of any env start in the same state."""
    starts = [tuple(steps[0].before.envs.physics.qpos[env]) for env in range(E)]
    starts += [tuple(step.after.envs.physics.qpos[env]) for step in steps for env in np.flatnonzero(step.out.done)]
    assert len(starts) > 3 * E and len(set(starts)) == len(starts)


def test_the_seed_decides_every_bit(player, steps):
    """Same seed, same trajectory; another seed, another one."""
    actions = np.stack([step.action for step in steps[:12]])
    again, other = player.play(actions), player.play(actions, seed=1)
    for a, b, c in zip(steps, again, other, strict=False):
        assert same(a.after, b.after) and same(a.out, b.out)
        assert not np.array_equal(a.after.envs.physics.qpos, c.after.envs.physics.qpos)


@pytest.mark.parametrize(("engine", "tolerance"), [("mujoco", 1e-3), ("mjx", 5e-3)])  # MJX solves in float32
def test_kbot_forces_contacts_and_friction_belong_to_the_step_and_to_the_env(engine, tolerance):
    """Touch and acceleration sensors: of the last substep in stepped envs, of the reset state alone in reset ones.

    Feet are as slippery as each env's reset drew: 0.3 to 1.5 times the compiled value, however often it is drawn.
    """
    sensors = {
        name: {"_target_": f"{MDP}.observations.sensor", "name": name}
        for name in ("left_foot_touch", "right_foot_touch", "imu_acc", "imu_gyro", "base_site_pos")
    }
    friction = {"_target_": f"{MDP}.randomize.friction", "mode": "reset", "geoms": ".*capsule.*"}
    player = Player(
        kbot_task(
            observations={"actor": {"terms": sensors}},
            rewards={"torque": {"_target_": f"{MDP}.rewards.torque", "weight": 1.0}},
            terminations={"fallen": {"_target_": f"{MDP}.terminations.bad_orientation", "limit_rad": 0.2}},
            events={
                "root": {"_target_": f"{MDP}.events.reset_root", "mode": "reset", "tilt_range": [-0.25, 0.25]},
                "friction": friction | {"range": [0.3, 1.5]},
            },
            scale_rewards_by_dt=False,
        ),
        engine,
    )
    model, home = player.env.scene.model, player.env.scene.home_joint_pos
    lower, upper = np.array([model.joint(name).range for name in player.env.scene.joint_names]).T
    ids = np.concatenate([np.arange(s.adr[0], s.adr[0] + s.dim[0]) for s in map(model.sensor, sensors)])

    def check(obs, data):
        measured = data.sensordata[ids]
        assert np.all(np.abs(obs - measured) < tolerance * (1.0 + np.abs(measured)))

    def simulation(state, env):
        own = plain.edited(model, geom_friction=state.envs.model_fields["geom_friction"][env])
        physics = state.envs.physics
        return own, plain.make(own, physics.qpos[env], physics.qvel[env], physics.qacc_warmstart[env])

    frictions = []
    for step in player.play(np.random.default_rng(1).normal(0, 1, (12, E, 20))):
        for env in range(E):
            own, data = simulation(step.before, env)
            plain.step(own, data, [np.clip(home + np.float32(0.3) * step.action[env], lower, upper)] * 4)
            check(step.out.terminal_obs["actor"][env], data)
            torque = np.mean((data.actuator_force / model.actuator_forcerange[:, 1]) ** 2)
            assert step.out.reward[env] == pytest.approx(torque, rel=1e-3)  # no step_dt here
            if step.out.episode["length"][env] == 1:  # but the log is per second
                assert step.out.episode["reward/torque"][env] == pytest.approx(torque / 0.02, rel=1e-3)
            foot = step.after.envs.model_fields["geom_friction"][env, 1, 0]
            if step.out.done[env]:
                own, data = simulation(step.after, env)
                check(step.out.obs["actor"][env], plain.forward(own, data, home))
                frictions.append(foot)
            else:
                assert foot == step.before.envs.model_fields["geom_friction"][env, 1, 0]
    assert len(frictions) > 6 and len(set(frictions)) == len(frictions)
    assert 0.3 * 0.64 <= min(frictions) < 0.5 * 0.64 < 0.9 * 0.64 < max(frictions) <= 1.5 * 0.64


def test_time_and_sizes(player, steps):
    env = player.env
    assert env.physics_dt == pytest.approx(0.01) and env.max_episode_steps == MAX_STEPS
    assert env.action_size == 1 and env.obs_sizes["actor"] == {"pos": 2, "tip": 3, "force": 1, "last_action": 1}
    assert steps[0].before.envs.episode_step.dtype == np.int32
