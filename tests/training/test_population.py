"""Members of a population compute what each computes alone."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.jit import quick_jit

from ksim.config.compose import compose
from ksim.physics.batch import BatchPhysics
from ksim.physics.flat import FlatPhysics
from ksim.rl import random_key
from ksim.rl.ppo import collect, loss, prepare
from ksim.training.experiment import build
from ksim.training.population import NotTraceable, Population

SMALL = """
task=cartpole_balance physics.threads=1 algo.num_envs=16 algo.num_env_states_per_minibatch=32 algo.num_minibatches=2
algo.num_learning_epochs=2 algo.actor_hidden=[8] algo.critic_hidden=[8] log.interval_iterations=2
task.episode_length_s=0.3
""".split()
JOBS = (
    "seed=1",
    "seed=2 algo.learning_rate=1e-3 algo.gamma=0.9 algo.max_grad_norm=0.5 algo.clip=0.3",
    """seed=3 task.rewards.centered.std=0.5 task.rewards.upright.weight=0.7 task.terminations.fallen.limit=0.1
    task.events.reset_pole.position_range=[-0.1,0.3]""",
)


def close(ours, theirs, tolerance=1e-5):
    """Leaf by leaf, relative to the largest value of the leaf."""
    leaves = jax.tree.leaves_with_path(theirs)
    assert len(leaves) == len(jax.tree.leaves(ours)) > 0
    for (path, b), a in zip(leaves, jax.tree.leaves(ours), strict=True):
        if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a, float), np.asarray(b, float)
        scale = max(np.abs(b).max(initial=0.0), 1.0)
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance, rtol=0, err_msg=jax.tree_util.keystr(path))


def first_update(env, ppo, state):
    """The first rollout, and the gradients and losses of its data."""
    after, trajectory_TE, log = collect(env, ppo, state)
    dataset_D, _ = prepare(ppo, state.model, trajectory_TE)
    grads, metrics = eqx.filter_grad(loss, has_aux=True)(state.model.net, state.model, dataset_D, None, ppo)
    return after.env_carry.envs, trajectory_TE, log, grads, metrics


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjx", marks=pytest.mark.training)])
def test_each_member_computes_what_it_computes_alone(engine):
    """The first rollout, its losses and gradients; then the state after two whole iterations."""
    configs = [compose([*SMALL, f"physics={engine}", *job.split()]) for job in JOBS]
    population = Population(configs)
    states = [population.init(i)(random_key(config.seed, "train")) for i, config in enumerate(configs)]
    states_M = population.stack(states)

    def both(numbers, states_M):
        def one(numbers, state):
            return first_update(*population._with(numbers), state)

        return jax.vmap(one)(numbers, states_M), population.train_chunk(numbers, states_M)

    updates_M, (trained_M, metrics_M, finite_M) = quick_jit(both)(population.numbers, states_M)
    assert all(flag.all() for flag in finite_M.values())
    for i, config in enumerate(configs):
        alone = build(config)
        env, ppo = alone.env, alone.algorithm
        state = quick_jit(partial(ppo.init, env))(random_key(config.seed, "train"))
        close(states[i], state)

        def both_alone(state, env=env, ppo=ppo):
            update = first_update(env, ppo, state)
            metrics = []
            for _ in range(2):
                state, found = ppo.iterate(env, state)
                metrics.append(found)
            return update, state, metrics

        update, state, metrics = quick_jit(both_alone)(state)
        close(population.take(updates_M, i), update)
        close(population.take(trained_M, i), state, 1e-4)  # rounding grows from iteration to iteration
        for name in metrics[0]:
            reduce = np.sum if name.startswith("env/") else np.mean
            expected = reduce([float(m[name]) for m in metrics])
            assert float(metrics_M[name][i]) == pytest.approx(expected, rel=1e-3, abs=1e-4), name
    rewards = [float(x) for x in metrics_M["ppo/reward"]]
    assert len({round(x, 6) for x in rewards}) == 3  # or nothing was compared


def test_a_number_that_is_needed_when_a_program_is_made_is_refused_by_its_path():
    configs = [compose([*SMALL, f"task.actions.force.scale={scale}"]) for scale in (5.0, 10.0)]
    with pytest.raises(NotTraceable, match=r"task\.actions\.force\.scale cannot differ within one program: ") as error:
        Population(configs)
    assert error.value.path == "task.actions.force.scale"


def test_the_physics_of_all_members_is_one_call(monkeypatch):
    env = build(compose([*SMALL, "physics=mujoco"])).env
    calls = []
    for name in ("_host_step", "_host_forward"):
        original = getattr(BatchPhysics, name)

        def counted(self, *args, name=name, original=original):
            calls.append((name, args[0].qpos.shape))
            return original(self, *args)

        monkeypatch.setattr(BatchPhysics, name, counted)
    flat = FlatPhysics(env.physics)
    carry, _ = jax.vmap(lambda key: env.reset(key, 4))(jax.random.split(jax.random.key(0), 3))
    state_ME = carry.envs.physics
    calls.clear()
    ctrl_MESu = jax.random.normal(jax.random.key(1), (3, 4, 2, 1))
    nobody_ME = jnp.zeros((3, 4), bool)

    @jax.jit
    def run(state_ME, mask_ME):
        stepped = jax.vmap(lambda state, ctrl: flat.step(state, {}, ctrl))(state_ME, ctrl_MESu)
        return stepped, jax.vmap(lambda s, mask: flat.forward(s, {}, ctrl_MESu[0, :, 0], mask))(stepped, mask_ME)

    stepped, _ = jax.block_until_ready(run(state_ME, nobody_ME))
    assert calls == [("_host_step", (12, 2))]  # and nothing is recomputed where nobody was reset
    jax.block_until_ready(run(state_ME, nobody_ME.at[1, 2].set(True)))
    assert calls[1:] == [("_host_step", (12, 2)), ("_host_forward", (12, 2))]
    for i in range(3):
        alone = env.physics.step(jax.tree.map(lambda x, i=i: x[i], state_ME), {}, ctrl_MESu[i])
        close(jax.tree.map(lambda x, i=i: x[i], stepped), alone, 0.0)
