"""A first update of a training, on the devices and in the processes that there are: run as a program, it writes it.

`python -m support.spread <task> <physics.devices, or null> ...` writes `<physics.devices>.npz`; `my` may have the task.
"""

import sys

import equinox as eqx
import jax
import numpy as np

from ksim.config.compose import compose
from ksim.rl import random_key
from ksim.rl.ppo import collect, loss, prepare
from ksim.system import mesh, processes
from ksim.training.experiment import build
from ksim.training.placement import Placement

SMALL = """
physics=mjx seed=3 algo.num_envs=16 algo.num_env_states_per_minibatch=32 algo.num_minibatches=2
algo.num_learning_epochs=1 algo.actor_hidden=[8] algo.critic_hidden=[8] log.interval_iterations=1 eval.episodes=0
""".split()


def by_leaf(tree) -> dict[str, np.ndarray]:
    found = {}
    for path, x in jax.tree.leaves_with_path(tree):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        found[jax.tree_util.keystr(path)] = np.asarray(jax.random.key_data(x) if is_key else x)
    return found


def first_update(placement: Placement, state):
    """The first rollout, and the gradients and losses of its data."""
    env, ppo = placement.experiment.env, placement.experiment.algorithm
    after, trajectory_TE, log = collect(env, ppo, state)
    dataset_D = mesh.split(prepare(ppo, state.model, trajectory_TE)[0])
    grads, metrics = eqx.filter_grad(loss, has_aux=True)(state.model.net, state.model, dataset_D, None, ppo)
    return {"envs": after.env_carry.envs, "rollout": trajectory_TE, "log": log, "grads": grads, "losses": metrics}


def main(task: str, devices: str) -> None:
    placement = Placement(build(compose([f"task={task}", *SMALL, f"physics.devices={devices}"], "my")))
    state = placement.put(placement.init(random_key(3, "train")))
    program = jax.jit(lambda state: first_update(placement, state))
    if placement.mesh is not None:
        everywhere = mesh.shardings(placement.mesh, is_split=False)
        program = jax.jit(lambda state: first_update(placement, state), out_shardings=everywhere)
        with jax.set_mesh(placement.mesh):
            program = program.lower(state).compile()
        processes.meet()
    found = by_leaf({"first": placement.gather(state), **program(state)})
    chunk = placement.compile_chunk(state)
    for _ in range(2):
        state, metrics, finite = chunk(state)
    found |= by_leaf({"trained": placement.gather(state), "metrics": metrics, "finite": finite})
    if processes.leads():
        np.savez(f"{devices}.npz", **found)
        print(len(placement.devices), "devices")


if __name__ == "__main__":
    with processes.together():
        for devices in sys.argv[2:]:
            main(sys.argv[1], devices)
