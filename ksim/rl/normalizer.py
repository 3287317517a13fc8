"""Running statistics of observations."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.mirror import SignedPermutation

LARGEST = 10.0  # normalized observations are clipped to this magnitude
OUTLIER = 100.0  # standard deviations from the mean beyond which an element counts as no farther
SMALLEST_STD = 0.01  # of an element for that bound: what was constant at first may begin to move
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

        What is not finite is left out, with the whole observation that it is part of. An element counts as no farther
        from the mean than `OUTLIER` standard deviations: one spike would else widen its statistics for good.

        Args:
            obs: observations, any number of leading axes.
            mirror: also count the mirror image of each, so that normalizing commutes with mirroring.
        """
        obs = obs.reshape(-1, obs.shape[-1])
        is_finite = jnp.isfinite(obs).all(axis=-1, keepdims=True)
        added = jnp.sum(is_finite, dtype=self.count.dtype)
        obs = self._bounded(jnp.where(is_finite, obs, self.mean))
        share = jnp.maximum(added, 1.0)
        batch_mean = jnp.sum(obs, axis=0, where=is_finite) / share
        batch_var = jnp.sum(jnp.square(obs - batch_mean), axis=0, where=is_finite) / share
        if mirror is not None:
            mirrored = mirror(batch_mean)
            mean = 0.5 * (batch_mean + mirrored)
            # Variance of the union of two equally large halves: their mean variance, and the spread of their means.
            batch_var = 0.5 * (batch_var + batch_var[mirror.index]) + jnp.square(0.5 * (batch_mean - mirrored))
            batch_mean = mean
        count = self.count + added
        total = jnp.maximum(count, 1.0)
        delta = batch_mean - self.mean
        mean = self.mean + delta * (added / total)
        m2 = self.var * self.count + batch_var * added + jnp.square(delta) * (self.count * added / total)
        var = jnp.where(count > 0, m2 / total, self.var)
        return Normalizer(mean, var, count)

    def _bounded(self, obs: Float[Array, "D n"]) -> Float[Array, "D n"]:
        """The observations, none farther from the mean than `OUTLIER` standard deviations.

        The first batch has no statistics to go by. Its own take their place, found by cutting it off at ten of its
        standard deviations again and again: a spike shrinks by ten each time, everything else stays.
        """

        def cut(_: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
            mean, std = found
            bounded = jnp.clip(obs, mean - 10.0 * std, mean + 10.0 * std)
            return jnp.mean(bounded, axis=0), jnp.std(bounded, axis=0)

        def of_batch() -> tuple[Array, Array]:
            return jax.lax.fori_loop(0, 12, cut, (jnp.mean(obs, axis=0), jnp.std(obs, axis=0)))

        mean, std = jax.lax.cond(self.count > 0, lambda: (self.mean, jnp.sqrt(self.var)), of_batch)
        reach = OUTLIER * jnp.maximum(std, SMALLEST_STD)
        return jnp.clip(obs, mean - reach, mean + reach)
