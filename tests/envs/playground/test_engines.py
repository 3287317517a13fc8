"""C MuJoCo in the place of the functions that Playground's environments step through."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support.jit import quick_jit

pytest.importorskip("mujoco_playground")

from ksim.envs.playground import library
from ksim.envs.playground.data import NotFilled
from ksim.envs.playground.engines import CEngine, MjxEngine, changed_fields, with_fields
from ksim.errors import ConfigError


def actions(env, num_steps: int, num_envs: int) -> jax.Array:
    return jax.random.uniform(jax.random.PRNGKey(1), (num_steps, num_envs, env.action_size), minval=-1.0, maxval=1.0)


def play(engine, num_envs: int, action_TEa, **model_fields):
    """Observations, rewards and positions of E envs; (T, E, ...)."""

    def run(key_E, action_TEa):
        def step(state, action_Ea):
            state = jax.vmap(engine.step)(state, action_Ea, model_fields)
            return state, (state.obs, state.reward, state.data.qpos)

        first = jax.vmap(engine.reset)(key_E, model_fields)
        return first.data.qpos, first.data.qvel, jax.lax.scan(step, first, action_TEa)[1]

    return jax.device_get(quick_jit(run)(jax.random.split(jax.random.PRNGKey(0), num_envs), action_TEa))


def played_by_hand(model, qpos, qvel, action_Ta, num_substeps) -> np.ndarray:
    """Positions after each env step, by `mj_step`."""
    data = mujoco.MjData(model)
    data.qpos, data.qvel = qpos, qvel
    found = []
    for action_a in action_Ta:
        data.ctrl[:] = action_a
        for _ in range(num_substeps):
            mujoco.mj_step(model, data)
        found.append(data.qpos.copy())
    return np.array(found)


def test_an_environment_is_stepped_as_mj_step_steps():
    """With contacts, and several substeps in an env step."""
    env = library.load("WalkerWalk", {})
    assert env.n_substeps > 1
    engine = CEngine(env, "WalkerWalk", threads=2)
    action_TEa = actions(env, 20, 3)
    qpos_E, qvel_E, (_, reward_TE, qpos_TE) = play(engine, 3, action_TEa)
    for e in range(3):
        expected = played_by_hand(env.mj_model, qpos_E[e], qvel_E[e], np.asarray(action_TEa)[:, e], env.n_substeps)
        np.testing.assert_allclose(qpos_TE[:10, e], expected[:10], atol=2e-4)  # float32 between env steps
    assert np.isfinite(reward_TE).all() and np.ptp(qpos_TE[-1], axis=0).max() > 1e-3


def test_only_what_an_environment_reads_goes_from_step_to_step():
    engine = CEngine(library.load("CartpoleBalance", {}), "CartpoleBalance", threads=1)
    assert engine.fields == ("act", "qacc_warmstart", "qpos", "qvel", "time", "xmat")


def test_all_envs_take_one_call_and_populations_too(monkeypatch):
    env = library.load("PendulumSwingup", {})
    engine = CEngine(env, "PendulumSwingup", threads=1)
    calls = []
    host = engine._pool._host_step
    monkeypatch.setattr(engine._pool, "_host_step", lambda *args: calls.append(1) or host(*args))
    key_PE = jax.random.split(jax.random.PRNGKey(0), (2, 3))
    action_PEa = jnp.ones((2, 3, 1))

    def step(key, action_a):
        return engine.step(engine.reset(key), action_a).obs

    flat = quick_jit(jax.vmap(step))(key_PE.reshape(6, -1), action_PEa.reshape(6, 1)).block_until_ready()
    assert len(calls) == 2  # a forward pass and a step
    nested = quick_jit(jax.vmap(jax.vmap(step)))(key_PE, action_PEa)
    assert len(calls) == 4
    np.testing.assert_array_equal(nested.reshape(6, -1), flat)


def test_mjx_is_itself_again_after_tracing():
    env = library.load("CartpoleBalance", {})
    before = (mujoco.mjx.make_data, mujoco.mjx.forward, mujoco.mjx.step, library.functions().step, env.mjx_model)
    engine = CEngine(env, "CartpoleBalance", threads=1)
    jax.eval_shape(engine.reset, jax.random.PRNGKey(0))
    with pytest.raises(TypeError):
        engine.reset("no key")
    after = (mujoco.mjx.make_data, mujoco.mjx.forward, mujoco.mjx.step, library.functions().step, env.mjx_model)
    assert all(a is b for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("field", ["_impl", "qfrc_inverse", "cacc"])
def test_a_field_that_c_mujoco_does_not_fill_is_one_error(field, monkeypatch):
    env = library.load("CartpoleBalance", {})
    monkeypatch.setattr(env, "_get_obs", lambda data, info: getattr(data, field))
    with pytest.raises(
        NotFilled, match=rf"task.env: CartpoleBalance reads or sets mjx.Data.{field}, .*physics=mjx does"
    ):
        CEngine(env, "CartpoleBalance")


def test_models_of_their_own():
    """As a domain randomizer makes them: heavier poles, other gravity."""
    env = library.load("CartpoleBalance", {})
    base = env.mjx_model
    mass_Eb = jnp.asarray(env.mj_model.body_mass) * jnp.array([[1.0], [5.0]])
    gravity_E3 = jnp.array([[0.0, 0.0, -9.81], [0.0, 0.0, -3.0]])
    models = base.replace(body_mass=mass_Eb, opt=base.opt.replace(gravity=gravity_E3))
    fields = changed_fields(models, base)
    assert set(fields) == {"body_mass", "opt.gravity"}
    action_TEa = actions(env, 30, 2)
    engine = CEngine(env, "CartpoleBalance", threads=2)
    qpos_E, qvel_E, (_, _, qpos_TE) = play(engine, 2, action_TEa, **fields)
    for e in range(2):
        model = env.mj_model.__copy__()
        model.body_mass[:], model.opt.gravity[:] = mass_Eb[e], gravity_E3[e]
        expected = played_by_hand(model, qpos_E[e], qvel_E[e], np.asarray(action_TEa)[:, e], env.n_substeps)
        np.testing.assert_allclose(qpos_TE[:, e], expected, atol=1e-4)
    assert np.abs(qpos_TE[-1, 0] - qpos_TE[-1, 1]).max() > 1e-2
    assert changed_fields(with_fields(base, {}), base) == {}


def test_a_model_field_that_cannot_differ_is_refused():
    engine = CEngine(library.load("CartpoleBalance", {}), "CartpoleBalance", threads=1)
    with pytest.raises(ConfigError, match="mjModel's 'nothing' cannot differ between envs on physics=mujoco"):
        engine._pool.step({}, {"nothing": jnp.zeros(1)}, 1)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["CartpoleBalance", "PendulumSwingup", "CheetahRun", "WalkerWalk", "ReacherEasy"])
def test_200_steps_as_in_playground(name):
    """On MJX equal; on C MuJoCo equal within float32 before contacts let two trajectories part."""
    env = library.load(name, {})
    action_TEa = actions(env, 200, 4)
    original = SimpleNamespace(
        reset=lambda key, _: env.reset(key), step=lambda state, action, _: env.step(state, action)
    )
    expected = play(original, 4, action_TEa)
    on_mjx = play(MjxEngine(env, name), 4, action_TEa)
    jax.tree.map(np.testing.assert_array_equal, on_mjx, expected)
    on_c = play(CEngine(env, name, threads=2), 4, action_TEa)
    obs_TE, reward_TE, _ = expected[2]
    c_obs_TE, c_reward_TE, _ = on_c[2]
    np.testing.assert_allclose(c_obs_TE[:10], obs_TE[:10], rtol=1e-2, atol=2e-2)
    np.testing.assert_allclose(c_reward_TE[:10], reward_TE[:10], rtol=1e-2, atol=2e-2)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["CartpoleSwingup", "CheetahRun", "WalkerWalk"])
def test_returns_of_256_episodes_come_from_one_distribution(name):
    """Of one fixed policy that moves: sines. Two-sample Kolmogorov-Smirnov test."""
    from scipy.stats import ks_2samp

    env = library.load(name, {})
    num_steps = 200
    phase = jnp.linspace(0.0, 3.0, env.action_size)
    action_TEa = jnp.broadcast_to(
        jnp.sin(0.3 * jnp.arange(num_steps)[:, None] + phase)[:, None], (num_steps, 256, env.action_size)
    )
    returns = [play(engine, 256, action_TEa)[2][1].sum(0) for engine in (MjxEngine(env, name), CEngine(env, name))]
    assert np.std(returns[0]) > 1e-3
    assert ks_2samp(*returns).pvalue > 0.01
