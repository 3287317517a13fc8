"""Events: what they write, and when they fire."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from ksim.config.words import hint, shown
from ksim.envs.context import Context
from ksim.envs.managers.call import as_array, call
from ksim.envs.managers.timers import draw_steps
from ksim.envs.scene import ENCODER_BIAS
from ksim.envs.terms import Term, at
from ksim.errors import ConfigError
from ksim.physics.base import APPLIED_FORCES, INERTIAL_FIELDS

STATE_WRITES = ("qpos", "qvel", "act")


class EventManager:
    """Events of one env, by mode.

    An event is a function ``func(ctx, key, *, ...) -> writes``. One with memory is called in every env step, with a
    third argument that says whether it fires, ``(ctx, key, fires, memory) -> (writes, memory)``, and writes each time.

    Attributes:
        terms: the resolved terms.
        model_fields: the mjModel fields, applied forces and `encoder_bias` that events write, each with the path of
            the first such event; they get a value per env. Found by tracing.
        written: by event, the names of all that it writes. Found by tracing.
        inertial_modes: modes in which an event changes masses or inertias. Found by tracing.
    """

    def __init__(self, terms: dict[str, Term], step_dt: float):
        for term in terms.values():
            if term.has_memory and term.settings.mode not in ("interval", "step"):
                raise ConfigError(
                    f"{term.path}.mode: an event with memory goes on from step to step, so its mode must be "
                    f"'interval' or 'step', not {term.settings.mode!r}"
                )
        self.terms = terms
        self.step_dt = step_dt
        self.model_fields: dict[str, str] = {}
        self.written: dict[str, tuple[str, ...]] = {}
        self.inertial_modes: set[str] = set()

    def of_mode(self, mode: str) -> dict[str, Term]:
        """The terms of one mode, in their order."""
        return {name: term for name, term in self.terms.items() if term.settings.mode == mode}

    def writes(
        self, term: Term, ctx: Context, key: PRNGKeyArray, fires: Bool[Array, ""] | bool
    ) -> dict[str, tuple[Array, Bool[Array, ""] | bool]]:
        """What an event writes, by name, and whether it does: an event with memory decides that itself.

        Raises:
            ConfigError: it returns no dict, or writes something that is neither state nor a field of mjModel, or of
                another shape.
        """
        writes = call(term, ctx, key, jnp.asarray(fires)) if term.has_memory else call(term, ctx, key)
        if not isinstance(writes, Mapping):
            raise ConfigError(
                f"{term.path}: must return what it writes by name, such as {{'qvel': ...}}, not {shown(writes)}"
            )
        model, arrays = ctx.scene.model, {}
        for name, value in writes.items():
            try:
                own = getattr(ctx, name) if name in STATE_WRITES else ctx.scene.compiled(name)
            except AttributeError:
                own = None
            if own is None or not jnp.issubdtype(own.dtype, jnp.floating):
                others = (*STATE_WRITES, *APPLIED_FORCES, ENCODER_BIAS)
                raise ConfigError(
                    f"{term.path}: writes {name!r}, which is neither one of {', '.join(others)} "
                    f"nor a field of numbers in mjModel{hint(name, [*others, *dir(model)])}"
                )
            with at(term):
                arrays[name] = as_array(value, f"an array for {name!r}")
            if arrays[name].shape != own.shape:
                shape = arrays[name].shape
                raise ConfigError(f"{term.path}: writes {name!r} of shape {shape}; its shape is {own.shape}")
        return {name: (array, term.has_memory or fires) for name, array in arrays.items()}

    def declare(self, ctx: Context, key: PRNGKeyArray) -> None:
        """Trace every event once and note the model fields that they write."""
        self.model_fields, self.inertial_modes = {}, set()
        for event, term in self.terms.items():
            self.written[event] = tuple(self.writes(term, ctx, key, True))
            for name in self.written[event]:
                if name not in STATE_WRITES:
                    self.model_fields.setdefault(name, term.path)
                if name in INERTIAL_FIELDS:
                    self.inertial_modes.add(term.settings.mode)

    def draw_timers(self, key: PRNGKeyArray) -> dict[str, Int[Array, ""]]:
        """Env steps until each interval event fires next, at least 1."""
        return {
            name: draw_steps(jax.random.fold_in(key, i), term.settings.interval_range_s, self.step_dt)
            for i, (name, term) in enumerate(self.of_mode("interval").items())
        }
