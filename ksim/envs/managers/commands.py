"""Commands: goals that are drawn now and then, and that observations and rewards read."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.envs.calling import at
from ksim.envs.carry import Memory
from ksim.envs.context import Context
from ksim.envs.managers.call import as_array, bound, value_and_memory
from ksim.envs.managers.timers import draw_steps
from ksim.envs.terms import Term
from ksim.envs.tree import strong, where
from ksim.errors import ConfigError

_NEVER = 1 << 30  # env steps: months


class CommandState(eqx.Module):
    """What one command of one env remembers.

    Attributes:
        value: what terms see.
        carry: what was drawn, and what the command makes of it from step to step.
        steps_left: env steps until it is drawn anew.
    """

    value: Float[Array, " n"]
    carry: Any
    steps_left: Int[Array, ""]


class CommandManager:
    """Commands of one env.

    A command is a function ``func(ctx, key, *, ...) -> value`` that draws a vector, or a class with
    ``init(ctx, key) -> carry``, which draws, and ``__call__(ctx, carry) -> (value, carry)``, called in every env step.
    """

    def __init__(self, terms: dict[str, Term], step_dt: float):
        self.terms = terms
        self.step_dt = step_dt

    def advance(self, ctx: Context, key: PRNGKeyArray, fresh: Bool[Array, ""] | bool) -> Memory:
        """The commands from now on: drawn in a fresh episode and where their time is over; the values of all renewed.

        A command sees the new values of those before it.
        """
        memory: Memory = {}
        for i, term in enumerate(self.terms.values()):
            old = ctx.memory.get(term.path)
            now = ctx.remembering(memory)
            draw_key, timer_key = jax.random.split(jax.random.fold_in(key, i))
            range_s = term.settings.resampling_time_range_s
            steps = jnp.int32(_NEVER) if range_s is None else draw_steps(timer_key, range_s, self.step_dt)
            with at(term):
                drawn = self._draw(term, now, draw_key)
                if old is not None:
                    due = fresh | (old.steps_left <= 1)
                    drawn = where(due, drawn, old.carry)
                    steps = jnp.where(due, steps, old.steps_left - 1)
                value, carry = self._value(term, now, drawn)
            memory[term.path] = CommandState(value, carry, steps)
        return memory

    def refresh(self, ctx: Context) -> Memory:
        """The values of all renewed without drawing: what a terminal observation sees."""
        memory: Memory = {}
        for term in self.terms.values():
            state = ctx.memory[term.path]
            with at(term):
                value, _ = self._value(term, ctx.remembering(memory), state.carry)
            memory[term.path] = CommandState(value, state.carry, state.steps_left)
        return memory

    def values(self, memory: Mapping[str, Any]) -> dict[str, Float[Array, "... n"]]:
        """What terms see now, by name, out of what is remembered, of one env or of many."""
        return {name: memory[term.path].value for name, term in self.terms.items()}

    def _draw(self, term: Term, ctx: Context, key: PRNGKeyArray) -> Any:
        command = bound(term, ctx)
        return strong(command.init(ctx, key) if term.has_memory else command(ctx, key))

    def _value(self, term: Term, ctx: Context, carry: Any) -> tuple[Float[Array, " n"], Any]:
        value, carry = value_and_memory(bound(term, ctx)(ctx, carry)) if term.has_memory else (carry, carry)
        value = as_array(value, "a vector", (1,), ctx.qpos.dtype)
        fixed = term.settings.fixed
        if fixed is not None:
            if len(fixed) != len(value):
                raise ConfigError(f"{term.path}.fixed: has {len(fixed)} elements; the command has {len(value)}")
            value = jnp.asarray(np.asarray(fixed), value.dtype)
        return value, strong(carry)
