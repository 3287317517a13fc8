"""Numbers that are logged once per episode."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ksim.envs.carry import Flags, Memory
from ksim.envs.context import Context
from ksim.envs.managers.call import call_scalar
from ksim.envs.terms import Term

Values = dict[str, Float[Array, ""]]


class MetricManager:
    """Metrics of one env, reduced over the steps of an episode: `mean`, `last`, `max` or `sum`."""

    def __init__(self, terms: dict[str, Term]):
        self.terms = terms

    def initial(self) -> dict[str, float]:
        """Accumulators of an episode that has no step yet."""
        return {name: -jnp.inf if term.settings.reduce == "max" else 0.0 for name, term in self.terms.items()}

    def accumulate(self, ctx: Context, so_far: Values) -> tuple[Values, Flags, Memory]:
        """The accumulators with this step's values, by path which of these were not finite (they count as zero), and
        what terms remember.
        """
        result, not_finite, memory = {}, {}, Memory()
        for name, term in self.terms.items():
            value, changed = call_scalar(term, ctx)
            memory |= changed
            finite = jnp.isfinite(value)
            value, not_finite[term.path] = jnp.where(finite, value, 0.0), ~finite
            match term.settings.reduce:
                case "max":
                    result[name] = jnp.maximum(so_far[name], value)
                case "last":
                    result[name] = value
                case _:
                    result[name] = so_far[name] + value
        return result, not_finite, memory

    def of_episode(self, accumulated: Values, num_steps: Int[Array, ""]) -> Values:
        """An episode's numbers from its accumulators and its length in env steps."""
        return {
            name: value / jnp.maximum(num_steps, 1) if self.terms[name].settings.reduce == "mean" else value
            for name, value in accumulated.items()
        }
