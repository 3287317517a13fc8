"""Whether an episode ends, and how."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from ksim.envs.carry import Memory
from ksim.envs.context import Context
from ksim.envs.managers.call import call_bool
from ksim.envs.terms import Term
from ksim.envs.traits import traits_of


class Ends(NamedTuple):
    """Whether one env's episode ends, or each of E.

    Attributes:
        terminated, truncated: an env may be both.
        by_term: each termination's verdict, by name.
    """

    terminated: Bool[Array, " *E"]
    truncated: Bool[Array, " *E"]
    by_term: dict[str, Bool[Array, " *E"]]

    @property
    def done(self) -> Bool[Array, " *E"]:
        """The episode ends, in one way or the other."""
        return self.terminated | self.truncated


def _truncates(term: Term) -> bool:
    """What the task says, or else what the term does."""
    said: bool | None = term.settings.time_out
    return traits_of(term.func).time_out if said is None else said


class TerminationManager:
    """Ends of one env's episode; with no term, episodes never end."""

    def __init__(self, terms: dict[str, Term]):
        self.terms = terms
        self.time_outs = {name for name, term in terms.items() if _truncates(term)}
        self.needs_time_limit = self.time_outs | {name for name, term in terms.items() if traits_of(term.func).time_out}

    def compute(self, ctx: Context) -> tuple[Ends, Memory]:
        """How the episode ends, and what terms remember of it."""
        by_term, memory = {}, Memory()
        for name, term in self.terms.items():
            by_term[name], changed = call_bool(term, ctx)
            memory |= changed
        terminated = truncated = jnp.zeros((), bool)
        for name, end in by_term.items():
            if name in self.time_outs:
                truncated = truncated | end
            else:
                terminated = terminated | end
        return Ends(terminated, truncated, by_term), memory
