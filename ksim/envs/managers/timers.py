"""Times in seconds as counts of steps."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray


def nearest_steps(seconds: float, step_dt: float) -> int:
    """Steps that come nearest to a time, halves up, float error guarded: 0.075 s at 0.05 s are 2, though 0.075 / 0.05
    is less than 1.5.
    """
    return math.floor(seconds / step_dt + 0.5 + 1e-6)


def covering_steps(seconds: float, step_dt: float) -> int:
    """Steps that cover a time, rounded up, float error guarded: 20 s at 0.02 s are 1000; 0 for a negative time."""
    return max(math.ceil(seconds / step_dt - 1e-6), 0)


def draw_steps(
    key: PRNGKeyArray, range_s: Sequence[float] | Array, step_dt: float, *, at_least: int = 1
) -> Int[Array, ""]:
    """Steps that take a time drawn uniformly from a range, rounded; no fewer and no more than its ends take.

    Args:
        key: random key.
        range_s: lowest and highest time, s; of the config, or what a curriculum gives.
        step_dt: seconds of a step.
        at_least: the result is no smaller.
    """
    steps = jnp.round(jax.random.uniform(key, (), minval=range_s[0] / step_dt, maxval=range_s[1] / step_dt))
    # The draw is rounded as float32: at the ends it may differ from what buffers were made for.
    fewest, most = (_nearest(t, step_dt) for t in (range_s[0], range_s[1]))
    return jnp.clip(steps.astype(jnp.int32), jnp.maximum(fewest, at_least), jnp.maximum(most, at_least))


def _nearest(seconds: float | Array, step_dt: float) -> int | Array:
    """`nearest_steps`, also of what a curriculum gives."""
    if isinstance(seconds, jax.Array):
        return jnp.floor(seconds / step_dt + 0.5 + 1e-4).astype(jnp.int32)
    return nearest_steps(seconds, step_dt)
