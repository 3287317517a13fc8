"""Numbers that are logged once an episode."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ksim.envs.context import Context
from ksim.envs.managers.call import call_scalar
from ksim.envs.terms import Term


class MetricManager:
    """Metrics of one env, reduced over the steps of an episode: `mean`, `last`, `max` or `sum`."""

    def __init__(self, terms: dict[str, Term]):
        self.terms = terms

    def initial(self) -> dict[str, float]:
        """Accumulators of an episode that has no step yet."""
        return {name: -jnp.inf if term.settings.reduce == "max" else 0.0 for name, term in self.terms.items()}

    def accumulate(
        self, ctx: Context, so_far: dict[str, Float[Array, ""]]
    ) -> tuple[dict[str, Float[Array, ""]], dict[str, Float[Array, ""]]]:
        """The accumulators with this step's values, and by path which of them were not finite: those count as zero."""
        result, broken = {}, {}
        for name, term in self.terms.items():
            value = call_scalar(term, ctx)
            finite = jnp.isfinite(value)
            value, broken[term.path] = jnp.where(finite, value, 0.0), 1.0 - finite
            match term.settings.reduce:
                case "max":
                    result[name] = jnp.maximum(so_far[name], value)
                case "last":
                    result[name] = value
                case _:
                    result[name] = so_far[name] + value
        return result, broken

    def of_episode(
        self, accumulated: dict[str, Float[Array, ""]], num_steps: Int[Array, ""]
    ) -> dict[str, Float[Array, ""]]:
        """An episode's numbers from its accumulators and its length in env steps."""
        return {
            name: value / jnp.maximum(num_steps, 1) if self.terms[name].settings.reduce == "mean" else value
            for name, value in accumulated.items()
        }
