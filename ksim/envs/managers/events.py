"""Events: what they write, and when they fire."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from ksim.config.words import hint, shown
from ksim.envs.calling import at
from ksim.envs.carry import Memory
from ksim.envs.context import Context
from ksim.envs.managers.call import as_array, call
from ksim.envs.managers.timers import draw_steps
from ksim.envs.scene import ENCODER_BIAS
from ksim.envs.stale import as_fired
from ksim.envs.terms import Term
from ksim.errors import ConfigError
from ksim.physics.base import APPLIED_FORCES, INERTIAL_FIELDS

STATE_WRITES = ("qpos", "qvel", "act")
MODES = ("startup", "reset", "step", "interval")  # in a step, events of mode `step` come first


class Write(NamedTuple):
    """What an event writes into a field of one env, and whether it does."""

    value: Array
    happens: Bool[Array, ""] | bool


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

    def fire(
        self, term: Term, ctx: Context, key: PRNGKeyArray, fires: Bool[Array, ""] | bool = True
    ) -> tuple[dict[str, Write], Memory]:
        """What an event writes, by name, and what it remembers; one with memory decides itself whether it writes.

        Raises:
            ConfigError: it returns no dict, or writes something that is neither state nor a field of mjModel, or of
                another shape.
        """
        if term.has_memory:
            fires = jnp.asarray(fires)
            writes, memory = call(term, ctx, key, fires)
        else:
            writes, memory = call(term, ctx, key)
        if not isinstance(writes, Mapping):
            raise ConfigError(
                f"{term.path}: must return what it writes by name, such as {{'qvel': ...}}, not"
                f" {shown(writes, null='None')}"
            )
        arrays = {name: _checked(term, ctx, name, value) for name, value in writes.items()}
        return {name: Write(array, term.has_memory or fires) for name, array in arrays.items()}, memory

    def declare(self, ctx: Context, key: PRNGKeyArray) -> None:
        """Trace every event once and note the model fields that they write.

        Raises:
            ConfigError: as `fire`, or an event reads what is stale when it fires (`ksim.envs.stale`).
        """
        self.model_fields, self.inertial_modes = {}, set()
        written: dict[str, str] = {}  # what derived fields follow from, by the first event of a step that writes it
        for mode in MODES:
            for term in self.of_mode(mode).values():
                writes, _ = self.fire(term, as_fired(ctx, mode, written), key)
                self.written[term.name] = tuple(writes)
                for name in writes:
                    if name not in STATE_WRITES:
                        self.model_fields.setdefault(name, term.path)
                    if name in INERTIAL_FIELDS:
                        self.inertial_modes.add(mode)
                    if mode in ("step", "interval") and name not in (*APPLIED_FORCES, ENCODER_BIAS):
                        written.setdefault(name, term.path)

    def draw_timers(self, key: PRNGKeyArray) -> dict[str, Int[Array, ""]]:
        """Env steps until each interval event fires next, at least 1."""
        return {
            name: draw_steps(jax.random.fold_in(key, i), term.settings.interval_range_s, self.step_dt)
            for i, (name, term) in enumerate(self.of_mode("interval").items())
        }


def _checked(term: Term, ctx: Context, name: str, value: Any) -> Array:
    """What an event writes into a field, as an array of its shape."""
    model = ctx.scene.model
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
        array = as_array(value, f"an array for {name!r}")
    if array.shape != own.shape:
        raise ConfigError(f"{term.path}: writes {name!r} of shape {array.shape}; its shape is {own.shape}")
    return array
