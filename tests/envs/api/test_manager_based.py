"""The stateful face: the members that people know, and that it is nothing but the functional env."""

import importlib.metadata
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task, kbot_task, same

from ksim.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from ksim.envs.markers import Arrow
from ksim.envs.tree import with_envs
from ksim.errors import ConfigError, KsimError
from ksim.viz.markers import DebugVisualizer

MEMBERS = """
    is_vector_env metadata cfg num_envs physics_dt step_dt device max_episode_length_s max_episode_length unwrapped
    load_managers reset step render close seed setup_manager_visualizers update_visualizers
""".split()
FALL = {"_target_": f"{MDP}.terminations.joint_out_of_range", "joints": "hinge", "limit": 0.3}
TIME_OUT = {"_target_": f"{MDP}.terminations.time_out"}
NUM_ENVS = 4
OTHERS = np.array([0, 2])


def task(**changes) -> ManagerBasedRlEnvCfg:
    """A cart-pole with something random in every place where a random stream is drawn from."""
    noisy = {"_target_": f"{MDP}.observations.joint_pos", "noise": {"type": "gaussian", "std": 0.01}}
    group = {"enable_corruption": True, "terms": {"joint_pos": noisy}}
    reset = {"_target_": f"{MDP}.events.reset_joints", "position_range": [-0.2, 0.2], "velocity_range": [-0.2, 0.2]}
    kick = {**reset, "mode": "interval", "interval_range_s": [0.04, 0.1], "position_range": [0.0, 0.0]}
    loss = {"_target_": f"{MDP}.randomize.friction_loss", "operation": "set", "range": [0.0, 0.01]}
    defaults = {
        "observations": {"actor": group, "critic": {"concatenate": False, "terms": {"joint_pos": noisy}}},
        "rewards": {"upright": {"_target_": f"{MDP}.rewards.pole_upright", "weight": 1.0, "joint": "hinge"}},
        "terminations": {"fall": FALL, "time_out": TIME_OUT},
        "events": {"loss": {**loss, "mode": "startup"}, "reset": {**reset, "mode": "reset"}, "kick": kick},
        "commands": {
            "goal": {
                "_target_": f"{MDP}.commands.uniform",
                "low": [-1.0],
                "high": [1.0],
                "resampling_time_range_s": [0.1, 0.2],
            }
        },
        "curriculum": {"gain": {"_target_": f"{MDP}.curriculum.linear", "start": 0.0, "end": 1.0, "num_steps": 100}},
        "episode_length_s": 0.39,  # and a half step
        "seed": 3,
    }
    return cartpole_task(**(defaults | changes))


def make(cfg: ManagerBasedRlEnvCfg, **kwargs) -> ManagerBasedRlEnv:
    return ManagerBasedRlEnv(cfg, "cpu", engine="mujoco", threads=1, **kwargs)


@pytest.fixture(scope="module")
def env():
    """One env for the tests that only play with it: its programs are compiled once."""
    env = make(task())
    yield env
    env.close()


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (30, NUM_ENVS, 1)).astype(np.float32)


def play(env: ManagerBasedRlEnv, actions) -> list:
    """What each step returns, but for the log, which is of all envs together."""
    steps = []
    for action in actions:
        *arrays, extras = env.step(action)
        extras.pop("log")
        steps.append((*arrays, extras))
    return steps


def test_it_has_exactly_the_members_of_the_contract(env):
    assert sorted(name for name in dir(env) if not name.startswith("_")) == sorted(MEMBERS)
    assert env.is_vector_env is True and env.unwrapped is env
    assert (env.num_envs, env.physics_dt, env.step_dt) == (NUM_ENVS, 0.01, 0.02)
    assert (env.max_episode_length_s, env.max_episode_length) == (0.39, 20)
    assert env.device in jax.devices("cpu")
    assert set(env.metadata) == {"mujoco_version", "warp_version", "render_modes", "render_fps"}
    installed = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
    assert env.metadata["mujoco_version"] == installed["mujoco"]
    assert env.metadata["warp_version"] == installed.get("warp-lang")
    assert env.metadata["render_modes"] == [None, "rgb_array"] and env.metadata["render_fps"] == 50


def test_it_is_the_functional_env(env, actions):
    """Step by step the same numbers, whether actions are NumPy's or JAX's."""
    player = Player(task())
    state, first_obs = player.reset(NUM_ENVS, seed=3)
    obs, extras = env.reset(seed=3)
    close = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a, b)  # noqa: E731
    close(obs, first_obs)
    assert extras == {"log": {}}
    ended = 0
    for i, action in enumerate(actions):
        state, out = player.step(state, action)
        obs, reward, terminated, truncated, extras = env.step(jnp.asarray(action) if i % 2 else action)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves((obs, reward, terminated, truncated)))
        close(obs, out.obs)
        close(extras["terminal_obs"], out.terminal_obs)
        close(extras["episode"], out.episode)
        close(reward, out.reward)
        np.testing.assert_array_equal(terminated, out.terminated)
        np.testing.assert_array_equal(truncated, out.truncated)
        done = out.terminated | out.truncated
        ended += done.sum()
        assert bool(extras["log"]) == done.any()
        if done.any():
            assert extras["log"]["return"] == pytest.approx(out.episode["return"][done].mean(), rel=1e-3)
            assert extras["log"]["termination/time_out"] == pytest.approx(out.ends["time_out"][done].mean())
            shown = np.abs(np.asarray(obs["actor"]) - extras["terminal_obs"]["actor"]).max(axis=-1)
            assert (shown[done] > 0.01).all()  # a fresh episode is seen, and the old one's last observation
    assert ended >= NUM_ENVS  # every env's time was out at least once


def test_a_seed_decides_everything(env, actions):
    first = env.reset(seed=11)[0], play(env, actions)
    assert env.cfg.seed == 11
    again = env.reset(seed=11)[0], play(env, actions)
    assert same(first, again)
    other = env.reset(seed=12)[0], play(env, actions)
    assert not same(first[0], other[0])
    env.reset(seed=11)
    play(env, actions)
    assert not same(first[0], env.reset()[0])  # without a seed, the streams go on


def test_resetting_some_envs_leaves_the_others_alone(env, actions):
    env.reset(seed=5)
    before = play(env, actions[:8])
    undisturbed = play(env, actions[8:])
    env.reset(seed=5)
    play(env, actions[:8])
    kept = lambda: jax.device_get((env._state.envs.model_fields, env._state.shared.curriculum))  # noqa: E731
    startup_and_curriculum = kept()
    obs, _ = env.reset(env_ids=np.array([1, 3]))
    assert same(kept(), startup_and_curriculum)  # of all envs, those that are reset among them
    assert same(obs, before[-1][0], OTHERS)
    assert not np.allclose(obs["actor"][1], before[-1][0]["actor"][1], atol=1e-3)
    disturbed = play(env, actions[8:])
    for a, b in zip(undisturbed, disturbed, strict=True):
        assert same(a, b, OTHERS)
        assert not same(a[0], b[0], np.array([1]))
    assert disturbed[0][4]["episode"]["length"].tolist() == [9, 1, 9, 1]


def test_a_seed_for_some_envs_is_theirs_alone(env, actions):
    def run(seed):
        env.reset(seed=5)
        obs, _ = env.reset(seed=seed, env_ids=[2])
        return obs, play(env, actions[:3])

    first, again, other = run(7), run(7), run(8)
    assert same(first, again)
    assert same(first[0], other[0], np.array([0, 1, 3])) and not same(first[0], other[0], np.array([2]))
    assert env.cfg.seed == 5


def test_what_is_returned_is_the_callers_own(env, actions):
    """To change as they like: the env shows the others' observations again when some are reset."""
    for play_on in (lambda: env.reset(seed=5)[0], lambda: env.step(actions[0])[0]):
        groups = list(obs := play_on())
        obs["critic"].clear()
        obs.clear()
        again, _ = env.reset(env_ids=[1])
        assert list(again) == groups and list(again["critic"]) == ["joint_pos"]


def test_the_step_is_compiled_once_and_its_state_donated(env, actions):
    env.reset(seed=1)
    before = env._state
    play(env, actions[:5])
    assert env._jit_step._cache_size() == 1
    assert before.envs.physics.qpos.is_deleted()


@pytest.mark.parametrize("finite", [False, True])
def test_a_finite_horizon_terminates(finite):
    env = make(task(is_finite_horizon=finite, episode_length_s=0.04, terminations={"time_out": TIME_OUT}))
    env.reset()
    *_, terminated, truncated, _ = env.step(np.zeros((NUM_ENVS, 1)))
    assert not terminated.any() and not truncated.any()
    *_, terminated, truncated, _ = env.step(np.zeros((NUM_ENVS, 1)))
    assert terminated.all() == finite and truncated.all() != finite
    assert terminated.any() == finite and truncated.any() != finite
    env.close()


def test_a_seed_that_is_null_is_drawn_and_written_back():
    cfg = task(seed=None)
    make(cfg)
    assert isinstance(cfg.seed, int) and cfg.seed >= 0
    assert ManagerBasedRlEnv.seed(5) == 5 and ManagerBasedRlEnv.seed(0) == 0
    drawn = {ManagerBasedRlEnv.seed() for _ in range(5)} | {ManagerBasedRlEnv.seed(-1) for _ in range(5)}
    assert len(drawn) > 5 and min(drawn) >= 0


def test_mistakes_are_told_in_one_line(env):
    def message(function, error=KsimError):
        with pytest.raises(error) as caught:
            function()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    fresh = make(task())
    assert "call reset() first" in message(lambda: fresh.step(np.zeros((NUM_ENVS, 1))))
    assert "(4, 1), not (4, 2)" in message(lambda: (env.reset(), env.step(np.zeros((NUM_ENVS, 2)))))
    assert "from 0 to 3, not [4]" in message(lambda: env.reset(env_ids=[4]))
    for seed in (-1, 1.5, [1, 2, 3, 4]):
        assert f"one whole number of 0 or more, for all envs, not {seed}" in message(lambda s=seed: env.reset(seed=s))
    assert "from 0 to 3, not [True, False]" in message(lambda: env.reset(env_ids=[True, False]))
    assert "'masks'" in message(lambda: env.reset(options={"masks": 1}))
    assert "seed" in message(lambda: env.reset(seed=-2))
    assert "did you mean 'threads'" in message(lambda: make(task(), thread=2), ConfigError)
    assert "'human'" in message(lambda: make(task(), render_mode="human"), ConfigError)
    assert "cpu:0" in message(lambda: ManagerBasedRlEnv(task(), "cpu:99"), ConfigError)
    assert "task.decimation" in message(lambda: make(task(decimation=0)), ConfigError)
    fresh.close()
    fresh.close()
    for use in (fresh.reset, fresh.render, lambda: fresh.step(np.zeros((NUM_ENVS, 1)))):
        if use != fresh.render:  # which gives None without a mode
            assert "closed" in message(use)


def test_load_managers_follows_a_changed_config():
    env = make(task())
    env.cfg.rewards = {}
    env.load_managers()
    env.reset()
    assert (env.step(np.zeros((NUM_ENVS, 1)))[1] == 0).all()


def test_managers_are_loaded_in_order():
    """Of several mistakes, the one in the manager that is loaded first is told."""
    order = ["events", "commands", "actions", "observations", "rewards", "terminations", "metrics"]
    bad = {"_target_": "ksim.mdp.nowhere"}
    cfg = task()
    good = {kind: getattr(cfg, kind) for kind in order}
    for kind in order:
        setattr(cfg, kind, {"actor": {"terms": {"bad": bad}}} if kind == "observations" else {"bad": bad})
    told = []
    for _ in order:
        with pytest.raises(ConfigError) as caught:
            make(cfg)
        told.append(str(caught.value).split(".")[1])
        setattr(cfg, told[-1], good[told[-1]])
    assert told == order
    make(cfg)


def test_mistakes_that_show_in_the_model_are_told_in_order_too():
    """Joints that the robot does not have: in an event, an observation, and the rest."""
    nothing = {"joints": "wheel"}
    cfg = task()
    cfg.events = {"bad": {"_target_": f"{MDP}.events.reset_joints", "mode": "reset", **nothing}}
    cfg.observations = {"actor": {"terms": {"bad": {"_target_": f"{MDP}.observations.joint_pos", **nothing}}}}
    cfg.terminations = {"bad": {"_target_": f"{MDP}.terminations.joint_out_of_range", "limit": 1.0, **nothing}}
    cfg.rewards = {"bad": {"_target_": f"{MDP}.rewards.joint_vel", "weight": 1.0, **nothing}}
    for kind in ("events", "observations", "terminations", "rewards"):
        with pytest.raises(ConfigError, match=rf"^task\.{kind}\..*bad: no joint matches 'wheel'"):
            make(cfg)
        setattr(cfg, kind, {})
    make(cfg)


def arrows(env: ManagerBasedRlEnv) -> list[Arrow]:
    visualizer = DebugVisualizer()
    env.update_visualizers(visualizer)
    return visualizer.markers_T[0] if visualizer.markers_T else []


def test_terms_draw_arrows_and_the_picture_shows_them(renderer):
    velocity = {
        "_target_": f"{MDP}.commands.uniform_velocity",
        "resampling_time_range_s": [10.0, 10.0],
        "x_range": [1.0, 1.0],
        "y_range": [0.0, 0.0],
        "yaw_rate_range": [-1.0, -1.0],
    }
    turn = {"_target_": f"{MDP}.events.reset_root", "mode": "reset", "yaw_range": [np.pi / 2, np.pi / 2]}
    force = {
        "_target_": f"{MDP}.events.external_force",
        "mode": "interval",
        "interval_range_s": [0.02, 0.02],
        "bodies": "base",
        "duration_range_s": [0.04, 0.04],
        "force_range": [80.0, 80.0],
    }
    cfg = kbot_task(commands={"velocity": velocity}, events={"turn": turn, "force": force}, seed=0)
    env = make(cfg, render_mode="rgb_array")
    env.reset()
    base = np.asarray(env._state.envs.physics.qpos[0, :3])
    ahead, yaw_rate = arrows(env)
    np.testing.assert_allclose(np.subtract(ahead.end, ahead.start), [0, 0.5, 0], atol=1e-5)  # forward is +y now
    np.testing.assert_allclose(ahead.start[:2], base[:2], atol=1e-6)
    np.testing.assert_allclose(np.subtract(yaw_rate.end, yaw_rate.start), [0, 0, -0.5], atol=1e-5)
    picture = env.render()
    assert picture.shape == (480, 640, 3) and picture.dtype == np.uint8
    env._drawn_terms = []
    without = env.render()
    env.setup_manager_visualizers()
    changed = np.abs(picture.astype(int) - without).max(axis=-1) > 20
    assert 50 < changed.sum() < 20_000
    assert (env.render() != picture).mean() < 0.001  # a software renderer is not exact to the bit
    physics = env._state.envs.physics  # a metre on, after which the floor's pattern repeats, the camera sees the same
    env._state = with_envs(env._state, physics=replace(physics, qpos=physics.qpos.at[:, 0].add(1.0)))
    assert (np.abs(picture.astype(int) - env.render()).max(axis=-1) > 20).mean() < 0.02
    env.step(np.zeros((4, env._env.action_size)))
    *_, push = arrows(env)
    np.testing.assert_allclose(np.subtract(push.end, push.start), [0.4, 0.4, 0.4], atol=1e-5)
    process = env._renderer._process
    assert env.render() is not None and env._renderer._process is process
    env.close()
    assert process.poll() is not None


def test_a_push_is_drawn_for_half_a_second():
    """As what it changed: what the velocity of the base was before and is after, a metre for a metre a second."""
    push = {"_target_": f"{MDP}.events.push", "mode": "interval", "interval_range_s": [0.6, 0.6], "speed": 0.6}
    env = make(kbot_task(events={"push": push}, seed=0))
    env.reset()
    drawn, velocities = [], []
    for _ in range(60):
        velocities.append(np.asarray(env._state.envs.physics.qvel[0, :2]))
        env.step(np.zeros((4, env._env.action_size)))
        drawn.append(arrows(env))
        if len(drawn) == 30:
            change, base = (
                np.asarray(env._state.envs.physics.qvel[0, :2]) - velocities[-1],
                env._state.envs.physics.qpos[0, :3],
            )
    assert [len(markers) for markers in drawn] == [0] * 29 + [1] * 25 + [0] * 5 + [1]
    (arrow,) = drawn[29]
    along = np.subtract(arrow.end, arrow.start)
    np.testing.assert_allclose(arrow.start, base, atol=1e-6)
    assert np.linalg.norm(along) == pytest.approx(0.6, abs=1e-5) and along[2] == 0
    assert change @ along[:2] / np.linalg.norm(change) / 0.6 > 0.95  # the floor has taken a part of it by then
    env.close()


def test_without_a_mode_there_is_no_picture(env):
    assert env.render() is None
