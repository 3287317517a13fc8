"""A policy that remembers: an Elman network, as a user would write it outside of ksim."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.rl import Normal, Policy


class Elman(Policy):
    """h' = tanh(W obs + U h), mean = V h'; the carry is h, (batch, m)."""

    w: Float[Array, "m n"]
    u: Float[Array, "m m"]
    v: Float[Array, "a m"]

    def __call__(self, obs: Array, carry: Array) -> tuple[Normal, Array]:
        carry = jnp.tanh(obs @ self.w.T + carry @ self.u.T)
        mean = carry @ self.v.T
        return Normal(mean, jnp.full_like(mean, -1.0)), carry

    def init_carry(self, batch: int) -> Array:
        return jnp.full((batch, self.u.shape[0]), 0.25)

    def spec(self) -> dict[str, Any]:
        return {"obs": self.w.shape[1], "memory": self.w.shape[0], "action": self.v.shape[0]}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "Elman":
        n, m, a = spec["obs"], spec["memory"], spec["action"]
        return cls(jnp.zeros((m, n)), jnp.zeros((m, m)), jnp.zeros((a, m)))

    @classmethod
    def random(cls, n: int, m: int, a: int, seed: int = 0) -> "Elman":
        keys = jax.random.split(jax.random.key(seed), 3)
        shapes = ((m, n), (m, m), (a, m))
        return cls(*(0.5 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)))
