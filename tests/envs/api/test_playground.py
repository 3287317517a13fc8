"""Playground through the plain API; on C MuJoCo where the engine does not matter, as it compiles fast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("mujoco_playground")

from support.jit import quick_jit

from ksim.envs.api import playground
from ksim.envs.playground import library
from ksim.errors import ConfigError

ENGINES = ("mjx", "mujoco")
SUITE = library.package().dm_control_suite.ALL_ENVS


@pytest.fixture(scope="module")
def env():
    return playground.make("CartpoleBalance", physics="mujoco", max_steps=3)


def test_an_episode_from_reset_to_its_time_limit(env):
    """As mujorax: `rng` is split into the one that the state keeps and the one that Playground's reset gets."""
    key = jax.random.PRNGKey(7)
    obs, state = quick_jit(env.reset)(key)
    np.testing.assert_allclose(obs, env._engine.reset(jax.random.split(key)[1]).obs, atol=1e-6)
    assert env.observation_space.contains(np.asarray(obs))
    assert state.step == 0 and not state.done
    assert np.array_equal(state.rng, jax.random.split(key)[0])
    step = quick_jit(env.step)
    ends = []
    for count in range(1, 4):
        before = state
        obs, state, reward, done, info = step(state, jnp.ones(1))
        assert reward.shape == () and done.dtype == bool and state.step == info["current_step"] == count
        assert np.array_equal(state.rng, jax.random.split(before.rng)[0])
        assert np.array_equal(info["terminal_obs"], obs)
        ends.append((bool(done), bool(info["terminated"]), bool(info["truncated"])))
    assert ends == [(False, False, False), (False, False, False), (True, False, True)]


def test_many_envs_are_reset_to_random_states_of_their_own(env):
    vec = playground.make_vec("CartpoleBalance", 5, physics="mujoco", max_steps=3)
    obs_0, state = quick_jit(vec.reset)(jax.random.PRNGKey(0))
    step = quick_jit(vec.step)
    for _ in range(2):
        _, state, _, done_E, _ = step(state, jnp.zeros((5, 1)))
        assert not done_E.any()
    rng_E = jax.vmap(lambda key: jax.random.split(jax.random.split(key)[0])[0])(state.rng)
    obs_E, state, _, done_E, info = step(state, jnp.zeros((5, 1)))
    assert done_E.all() and not state.step.any() and not state.done.any()
    assert vec.observation_space.contains(np.asarray(obs_E))
    expected, _ = quick_jit(jax.vmap(env.reset))(rng_E)
    np.testing.assert_allclose(obs_E, expected, atol=1e-6)
    for fresh in (obs_0, info["terminal_obs"]):
        assert np.abs(obs_E - fresh).max(axis=1).min() > 1e-4  # neither a cached state nor the last one
    assert np.unique(np.asarray(obs_E)[:, 0]).size == 5


def test_rewards_ends_and_info_may_be_ones_own():
    class Short(playground.MjxPlaygroundEnv):
        _PLAYGROUND_NAME = "PendulumSwingup"

        def _reward(self, state, action, new_pg):
            return 10.0 + action[0]

        def _done(self, state, new_pg, new_step):
            return new_step >= 1

        def _info(self, state, new_pg, new_step):
            return {"mine": new_step}

    env = Short(playground.MjxPlaygroundConfig(physics="mujoco"))
    _, state = quick_jit(env.reset)(jax.random.PRNGKey(0))
    _, _, reward, done, info = quick_jit(env.step)(state, jnp.array([0.5]))
    assert (float(reward), bool(done), dict(info)) == (10.5, True, {"mine": 1})


def test_settings_reach_the_environment_by_dotted_keys():
    env = playground.make(
        "CartpoleBalance", physics="mujoco", config_overrides={"ctrl_dt": 0.02, "vision_config.nworld": 3}
    )
    assert env.unwrapped.n_substeps == 2
    assert env.unwrapped._config.vision_config.nworld == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: playground.make("CartpoleBalanc"), "name: MuJoCo Playground has no .*did you mean 'CartpoleBalance'"),
        (
            lambda: playground.make("CartpoleBalance", config_overrides={"ctrl_d": 1.0}),
            r"config_overrides.ctrl_d: CartpoleBalance has no such setting \(did you mean 'ctrl_dt'",
        ),
        (
            lambda: playground.make("CartpoleBalance", config_overrides={"ctrl_dt": "fast"}),
            "config_overrides.ctrl_dt: .*",
        ),
        (lambda: playground.make("CartpoleBalance", max_steps=0), "max_steps: must be above 0, not 0"),
        (lambda: playground.make("CartpoleBalance", physics="mjc"), "physics: there is no 'mjc'"),
        (lambda: playground.make_vec("CartpoleBalance", 0), "n_envs: must be above 0, not 0"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match="names no environment"):
        playground.MjxPlaygroundEnv()


@pytest.mark.parametrize("name", ["Go1JoystickFlatTerrain", "PandaPickCube"])
def test_files_that_are_not_there_are_one_message(name, monkeypatch, tmp_path):
    monkeypatch.setattr(library.functions(), "MENAGERIE_PATH", library.functions().epath.Path(tmp_path / "none"))
    monkeypatch.delenv(library.MENAGERIE, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "mujoco_menagerie", None)
    for menagerie in (None, str(tmp_path), str(tmp_path / "elsewhere")):
        with pytest.raises(ConfigError, match=f"{name}: .*pip install mujoco-menagerie") as caught:
            playground.make(name, menagerie=menagerie)
        assert "\n" not in str(caught.value)


def test_a_picture(env):
    _, state = quick_jit(env.reset)(jax.random.PRNGKey(0))
    try:
        picture = env.render(state, height=48, width=64)
    finally:
        env.close()
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    assert picture.std() > 5


@pytest.mark.peers
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SUITE)
def test_every_environment_of_the_suite(name, engine):
    """Reset, 50 steps, spaces, the time limit, `jit` and `vmap` agree, a picture that shows something."""
    env = playground.make(name, physics=engine, max_steps=50)
    keys = jax.random.split(jax.random.PRNGKey(1), 2)
    action_TEa = jax.random.uniform(jax.random.PRNGKey(2), (50, 2, *env.action_space.shape), minval=-1.0, maxval=1.0)

    def play(key, action_Ta):
        first = env.reset(key)

        def step(state, action_a):
            obs, state, reward, done, info = env.step(state, action_a)
            return state, (obs, reward, done, info["truncated"])

        return first[0], *jax.lax.scan(step, first[1], action_Ta)

    obs_0, last, (obs_T, reward_T, done_T, cut_T) = quick_jit(play)(keys[0], action_TEa[:, 0])
    assert env.observation_space.contains(np.asarray(obs_0))
    assert all(env.observation_space.contains(obs) for obs in np.asarray(obs_T))
    assert np.isfinite(reward_T).all() and done_T[-1] and cut_T[-1] and not np.asarray(cut_T)[:-1].any()
    _, _, (mapped_ET, rewards_ET, *_) = quick_jit(jax.vmap(play, in_axes=(0, 1)))(keys, action_TEa)
    np.testing.assert_allclose(mapped_ET[0][:10], obs_T[:10], atol=1e-3)
    np.testing.assert_allclose(rewards_ET[0][:10], reward_T[:10], atol=1e-3)
    try:
        assert env.render(last, height=48, width=64).std() > 5
    finally:
        env.close()


@pytest.mark.peers
@pytest.mark.parametrize("name", [n for n in library.names() if n not in SUITE])
def test_every_other_environment_steps_or_says_what_is_missing(name):
    try:
        env = playground.make(name, physics="mujoco")
    except ConfigError as error:
        assert "MuJoCo Menagerie" in str(error) or "which physics=mujoco does not fill" in str(error)
        return
    obs, state = quick_jit(env.reset)(jax.random.PRNGKey(0))
    assert env.observation_space.contains(jax.tree.map(np.asarray, obs))
    obs, _, reward, *_ = quick_jit(env.step)(state, jnp.zeros(env.action_space.shape))
    assert env.observation_space.contains(jax.tree.map(np.asarray, obs)) and np.isfinite(reward)
