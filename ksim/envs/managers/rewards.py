"""The weighted sum of the reward terms."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.carry import Flags, Memory
from ksim.envs.context import Context
from ksim.envs.managers.call import call_scalar
from ksim.envs.terms import Term


class Rewards(NamedTuple):
    """Rewards of one env.

    Attributes:
        total: their sum.
        by_term: weighted, by name.
        not_finite: whether each term was not finite, by its path; such a value counts as zero.
    """

    total: Float[Array, ""]
    by_term: dict[str, Float[Array, ""]]
    not_finite: Flags


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

    def compute(self, ctx: Context) -> tuple[Rewards, Memory]:
        """The rewards, and what terms remember of them."""
        values, not_finite, memory = {}, {}, Memory()
        for name, term in self.terms.items():
            curriculum = term.driven.get("weight")
            factor = self.scale * (term.settings.weight if curriculum is None else ctx.curriculum(curriculum))
            value, changed = call_scalar(term, ctx)
            memory |= changed
            # The product below is used in the sum alone: the compiler may fuse both, which changes their last bit.
            finite = jnp.isfinite(jnp.abs(value) * abs(factor))
            if curriculum is not None:
                factor = jnp.where(finite, factor, 0.0)
            values[name] = jnp.where(finite, value, 0.0) * factor
            not_finite[term.path] = ~finite
        total = sum(values.values(), start=jnp.zeros((), ctx.qpos.dtype))
        return Rewards(total, values, not_finite), memory
