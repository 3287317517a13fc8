"""Play mujorax's environment and ksim's with the same key and actions: ``python mujorax_same.py CartpoleBalance``."""

import sys

import jax
import numpy as np
from mujorax.envs._base import MjxPlaygroundEnv

from ksim.envs.api import playground

NUM_STEPS = 100


def play(env):
    key = jax.random.PRNGKey(5)
    action_Ta = jax.random.uniform(jax.random.PRNGKey(6), (NUM_STEPS, *env.action_space.shape), minval=-1.0, maxval=1.0)
    obs, state = jax.jit(env.reset)(key)
    step = jax.jit(env.step)
    seen = [np.asarray(obs)]
    ends = []
    for action_a in action_Ta:
        obs, state, reward, done, _ = step(state, action_a)
        seen.append(np.asarray(obs))
        ends.append((float(reward), bool(done)))
    return np.array(seen), np.array(ends), np.asarray(state.rng)


def main(name: str) -> None:
    theirs = type(name, (MjxPlaygroundEnv,), {"_PLAYGROUND_NAME": name})()
    for ours, other in zip(play(playground.make(name)), play(theirs), strict=True):
        np.testing.assert_array_equal(ours, other)
    print(f"{name}: {NUM_STEPS} steps alike")


if __name__ == "__main__":
    main(sys.argv[1])
