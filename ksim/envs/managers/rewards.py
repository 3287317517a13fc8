"""The weighted sum of the reward terms."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.context import Context
from ksim.envs.managers.call import call_scalar
from ksim.envs.terms import Term


class RewardManager:
    """Rewards of one env.

    Args:
        terms: the resolved terms; those of weight 0 are not evaluated.
        scale: factor of every term: `step_dt`, so that weights are rates per second, or 1.
    """

    def __init__(self, terms: dict[str, Term], scale: float):
        self.terms = {
            name: term for name, term in terms.items() if term.settings.weight != 0 or "weight" in term.driven
        }
        self.scale = scale

    def __call__(
        self, ctx: Context
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], dict[str, Float[Array, ""]]]:
        """The reward, its weighted terms by name, and by path which of them were not finite: those count as zero."""
        values, broken = {}, {}
        for name, term in self.terms.items():
            curriculum = term.driven.get("weight")
            factor = self.scale * (term.settings.weight if curriculum is None else ctx.curriculum(curriculum))
            value = call_scalar(term, ctx)
            # The product below is used in the sum alone: the compiler may fuse both, which changes their last bit.
            finite = jnp.isfinite(jnp.abs(value) * abs(factor))
            if curriculum is not None:
                factor = jnp.where(finite, factor, 0.0)
            values[name] = jnp.where(finite, value, 0.0) * factor
            broken[term.path] = 1.0 - finite
        return sum(values.values(), start=jnp.zeros((), ctx.qpos.dtype)), values, broken
