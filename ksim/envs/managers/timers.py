"""Times in seconds as counts of env steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray


def draw_steps(key: PRNGKeyArray, range_s: tuple[float, float], step_dt: float, *, at_least: int = 1) -> Int[Array, ""]:
    """Steps that take a time drawn uniformly from a range, rounded."""
    low, high = (t / step_dt for t in range_s)
    steps = jax.random.uniform(key, (), minval=low, maxval=high)
    return jnp.maximum(jnp.round(steps).astype(jnp.int32), at_least)
