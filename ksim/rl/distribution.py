"""What policies return: a distribution of actions, and the diagonal Gaussian."""

from typing import Any, Protocol, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.mirror import SignedPermutation

_LOG_2PI = 1.8378770664093453


class Distribution(Protocol):
    """A distribution of actions for any number of observations: a pytree of its parameters, each (..., a).

    A rollout keeps it to remember the policy that acted, so the parameters may depend on the observation.
    """

    def mode(self) -> Float[Array, "... a"]:
        """The most probable action: what a deterministic policy does."""
        ...

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... a"]:
        """One draw per observation."""
        ...

    def log_prob(self, x: Float[Array, "... a"]) -> Float[Array, "..."]:
        """Log density of the actions `x`."""
        ...

    def entropy(self) -> Float[Array, "..."]:
        """Differential entropy in nats."""
        ...

    def kl(self, other: Any) -> Float[Array, "..."]:
        """KL(self || other) in nats; `other` is of the same kind."""
        ...


class Normal(eqx.Module):
    """Independent Gaussians, one per action element.

    Attributes:
        mean: (..., a).
        log_std: (..., a) logarithm of the standard deviation.
    """

    mean: Float[Array, "... a"]
    log_std: Float[Array, "... a"]

    def mode(self) -> Float[Array, "... a"]:
        """The mean."""
        return self.mean

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... a"]:
        """One draw, of the mean's shape."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def log_prob(self, x: Float[Array, "... a"]) -> Float[Array, "..."]:
        """Log density of `x`, summed over the action elements."""
        z = (x - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(z) - self.log_std - 0.5 * _LOG_2PI, axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """Differential entropy in nats: sum of log(std) + (1 + log 2 pi) / 2."""
        log_std = jnp.broadcast_to(self.log_std, self.mean.shape)
        return jnp.sum(log_std + 0.5 * (1.0 + _LOG_2PI), axis=-1)

    def kl(self, other: "Normal") -> Float[Array, "..."]:
        """KL(self || other) in nats, summed over the action elements."""
        variance_ratio = jnp.exp(2.0 * (self.log_std - other.log_std))
        distance = jnp.square((self.mean - other.mean) * jnp.exp(-other.log_std))
        return jnp.sum(other.log_std - self.log_std + 0.5 * (variance_ratio + distance - 1.0), axis=-1)

    def mirrored(self, mirror: SignedPermutation) -> Self:
        """The distribution of the mirrored actions."""
        return type(self)(mirror(self.mean), self.log_std[..., mirror.index])
