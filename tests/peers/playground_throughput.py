"""Env steps/s of Playground's own wrapper on MJX, random actions: ``python playground_throughput.py CartpoleBalance``.

What `python -m ksim.bench task=playground task.env=<name> algo.num_envs=<envs>` calls "env and policy" is to be
compared with it: a rollout of as many envs, compiled before it is timed.
"""

import statistics
import sys
import time

from ksim.system import jax_setup

jax_setup.prepare("mjx")

import jax  # noqa: E402  (prepared first)
from mujoco_playground import registry, wrapper  # noqa: E402

NUM_STEPS, REPEATS = 32, 5


def main(name: str, num_envs: int = 1024) -> None:
    config = registry.get_default_config(name)
    env = wrapper.wrap_for_brax_training(
        registry.load(name, config_overrides={"impl": "jax"}), episode_length=config.episode_length
    )

    @jax.jit
    def rollout(state, key):
        def step(state, key):
            action_Ea = jax.random.uniform(key, (num_envs, env.action_size), minval=-1.0, maxval=1.0)
            state = env.step(state, action_Ea)
            return state, state.reward.sum()

        return jax.lax.scan(step, state, jax.random.split(key, NUM_STEPS))

    state = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), num_envs))
    state, _ = jax.block_until_ready(rollout(state, jax.random.PRNGKey(1)))
    seconds = []
    for turn in range(REPEATS):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(rollout(state, jax.random.PRNGKey(turn)))
        seconds.append(time.perf_counter() - begin)
    print(f"{name}: {NUM_STEPS * num_envs / statistics.median(seconds):,.0f} env steps/s, {num_envs} envs")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
