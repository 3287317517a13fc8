"""Times in seconds as counts of steps."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray


def nearest_steps(seconds: float, step_dt: float) -> int:
    """Steps that come nearest to a time, halves up, float error guarded: 0.075 s at 0.05 s are 2, though 0.075 / 0.05
    is less than 1.5."""
    return math.floor(seconds / step_dt + 0.5 + 1e-6)


def covering_steps(seconds: float, step_dt: float) -> int:
    """Steps that cover a time, rounded up, float error guarded: 20 s at 0.02 s are 1000; 0 for a negative time."""
    return max(math.ceil(seconds / step_dt - 1e-6), 0)


def draw_steps(key: PRNGKeyArray, range_s: tuple[float, float], step_dt: float, *, at_least: int = 1) -> Int[Array, ""]:
    """Steps that take a time drawn uniformly from a range, rounded; no fewer and no more than its ends take."""
    low, high = (t / step_dt for t in range_s)
    steps = jnp.round(jax.random.uniform(key, (), minval=low, maxval=high)).astype(jnp.int32)
    # The draw is rounded as float32: at the ends it may differ from what buffers were made for.
    fewest, most = (max(nearest_steps(t, step_dt), at_least) for t in range_s)
    return jnp.clip(steps, fewest, most)
