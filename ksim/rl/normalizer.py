"""Running statistics of observations."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.mirror import SignedPermutation

LARGEST = 10.0  # normalized observations are clipped to this magnitude
_EPSILON = 1e-6  # variance that is added, so that constants do not divide by 0


class Normalizer(eqx.Module):
    """Mean and variance of everything seen so far, merged batch by batch.

    Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".

    Attributes:
        mean: (n,).
        var: (n,) population variance.
        count: () how many observations it has seen; before the first, it changes nothing.
    """

    mean: Float[Array, " n"]
    var: Float[Array, " n"]
    count: Float[Array, ""]

    @classmethod
    def initial(cls, size: int) -> "Normalizer":
        """Statistics that change nothing."""
        return cls(jnp.zeros(size), jnp.ones(size), jnp.zeros(()))

    def __call__(self, obs: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """(obs - mean) / std, clipped to [-LARGEST, LARGEST]."""
        return jnp.clip((obs - self.mean) * self.inverse_std, -LARGEST, LARGEST)

    @property
    def inverse_std(self) -> Float[Array, " n"]:
        """1 / std."""
        return jax.lax.rsqrt(self.var + _EPSILON)

    def update(self, obs: Float[Array, "... n"], mirror: SignedPermutation | None = None) -> "Normalizer":
        """The statistics after more observations.

        Args:
            obs: observations, any number of leading axes.
            mirror: also count the mirror image of each, so that normalizing commutes with mirroring.
        """
        obs = obs.reshape(-1, obs.shape[-1])
        batch_mean, batch_var = jnp.mean(obs, axis=0), jnp.var(obs, axis=0)
        if mirror is not None:
            mirrored = mirror(batch_mean)
            mean = 0.5 * (batch_mean + mirrored)
            # Variance of the union of two equally large halves: their mean variance, and the spread of their means.
            batch_var = 0.5 * (batch_var + batch_var[mirror.index]) + jnp.square(0.5 * (batch_mean - mirrored))
            batch_mean = mean
        added = jnp.asarray(obs.shape[0], self.count.dtype)
        count = self.count + added
        delta = batch_mean - self.mean
        mean = self.mean + delta * (added / count)
        m2 = self.var * self.count + batch_var * added + jnp.square(delta) * (self.count * added / count)
        return Normalizer(mean, m2 / count, count)
