"""The random streams of a run: one per purpose, none of which depends on another."""

import jax
import numpy as np

_PURPOSES = ("train", "eval", "judge", "gate")


def random_key(seed: int, purpose: str) -> jax.Array:
    """The root of a stream: `train`; `eval`, the final evaluation's and `ksim.eval`'s; `judge` and `gate`,
    those of evaluations during a training.
    """
    return jax.random.fold_in(jax.random.key(seed), np.uint32(_PURPOSES.index(purpose)))
