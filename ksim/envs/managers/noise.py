"""Random and constant disturbances of observations."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.settings import NoiseCfg


def draw_noise(noise: NoiseCfg, like: Float[Array, " n"], key: PRNGKeyArray) -> Float[Array, " n"]:
    """A number for each element."""
    shape, dtype = like.shape, like.dtype
    match noise.type:
        case "constant":
            assert noise.value is not None  # NoiseCfg checks what each type needs
            return jnp.full(shape, noise.value, dtype)
        case "uniform":
            assert noise.low is not None and noise.high is not None
            return jax.random.uniform(key, shape, dtype, noise.low, noise.high)
        case "gaussian":
            assert noise.std is not None
            return (noise.mean or 0.0) + noise.std * jax.random.normal(key, shape, dtype)


def disturb(noise: NoiseCfg, value: Float[Array, " n"], drawn: Float[Array, " n"]) -> Float[Array, " n"]:
    """The value with what was drawn: `value + x`, `value * x` or `x`."""
    match noise.operation:
        case "add":
            return value + drawn
        case "scale":
            return value * drawn
        case "replace":
            return drawn


def apply_noise(noise: NoiseCfg, value: Float[Array, " n"], key: PRNGKeyArray) -> Float[Array, " n"]:
    """The value disturbed by numbers that are drawn now."""
    return disturb(noise, value, draw_noise(noise, value, key))
