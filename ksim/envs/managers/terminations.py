"""Whether an episode ends, and how."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from ksim.envs.context import Context
from ksim.envs.managers.call import call_bool
from ksim.envs.terms import Term


class TerminationManager:
    """Ends of one env's episode; with no term, episodes never end."""

    def __init__(self, terms: dict[str, Term]):
        self.terms = terms
        self.time_outs = {
            name for name, term in terms.items() if term.settings.time_out or getattr(term.func, "time_out", False)
        }

    def __call__(self, ctx: Context) -> tuple[Bool[Array, ""], Bool[Array, ""], dict[str, Bool[Array, ""]]]:
        """Terminated, truncated (an env may be both), and each term's verdict."""
        ends = {name: call_bool(term, ctx) for name, term in self.terms.items()}
        no = jnp.zeros((), bool)
        terminated = truncated = no
        for name, end in ends.items():
            if name in self.time_outs:
                truncated = truncated | end
            else:
                terminated = terminated | end
        return terminated, truncated, ends
