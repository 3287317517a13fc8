"""Curricula: values that change with the training, as arrays in the carry, so that nothing compiles again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ksim.config.words import choices, hint
from ksim.envs.calling import at, construct
from ksim.envs.terms import Term
from ksim.envs.tree import strong
from ksim.errors import ConfigError

_STEPS = "num_steps"  # where the carry holds the count of env steps


@dataclass(frozen=True)
class Progress:
    """What a curriculum sees after each step of all envs.

    Attributes:
        num_steps: steps that each env has made since the training began; it goes on when a training is resumed.
        done: (E,) the episode ended with this step.
        terminated: (E,) in a state of its own.
        episode: the running episodes, this step included, by log name (`return`, `length`, `reward/<term>` per second,
            `metric/<name>`), each (E,).
    """

    num_steps: Int[Array, ""]
    done: Bool[Array, " E"]
    terminated: Bool[Array, " E"]
    episode: dict[str, Float[Array, " E"]]

    def mean(self, value_E: Float[Array, " E"], otherwise: Float[Array, ""] | float) -> Float[Array, ""]:
        """Mean over the episodes that ended with this step; `otherwise` where none did."""
        count = jnp.sum(self.done)
        return jnp.where(count > 0, jnp.sum(jnp.where(self.done, value_E, 0.0)) / jnp.maximum(count, 1), otherwise)


class CurriculumState(eqx.Module):
    """What one curriculum carries: the value that terms see, and what it remembers."""

    value: Array
    carry: Any


class CurriculumManager:
    """Curricula of the whole batch.

    A curriculum is a function ``func(progress, *, ...) -> value``, or a class with ``init() -> (value, memory)`` and
    ``__call__(progress, memory) -> (value, memory)``. Its `sets` names a parameter of another term, such as
    `rewards.action_rate.weight` or `events.push.speed`, that the value takes the place of; terms of the user's own
    may also read it with `ctx.curriculum(name)`.
    """

    def __init__(self, terms: dict[str, Term]):
        self.terms = terms

    def drive(self, path: str, terms: dict[str, Term]) -> dict[str, Term]:
        """The terms of one manager with the parameters marked that curricula set.

        Args:
            path: the manager's place in the config, such as "task.rewards".
            terms: its resolved terms.

        Raises:
            ConfigError: a curriculum sets something of this manager that does not exist.
        """
        driven = {name: dict(term.driven) for name, term in terms.items()}
        for curriculum in self.terms.values():
            target = curriculum.settings.sets
            if target is None or not f"task.{target}".startswith(f"{path}."):
                continue
            name, _, parameter = f"task.{target}".removeprefix(f"{path}.").partition(".")
            if name not in terms:
                raise ConfigError(
                    f"{curriculum.path}.sets: {path} has no {name!r}{hint(name, terms) or choices(terms)}"
                )
            term = terms[name]
            known = [*term.parameter_names, *(["weight"] if hasattr(term.settings, "weight") else [])]
            if parameter not in known:
                where = f"{path}.{name} has no parameter {parameter!r}{hint(parameter, known) or choices(known)}"
                raise ConfigError(f"{curriculum.path}.sets: {where}")
            driven[name][parameter] = curriculum.name
        return {name: term.with_driven(driven[name]) for name, term in terms.items()}

    def initial(self) -> dict[str, Any]:
        """The carry of a training's first step; empty where there is no curriculum."""
        if not self.terms:
            return {}
        carry: dict[str, Any] = {_STEPS: jnp.zeros((), jnp.int32)}
        nobody = jnp.zeros(1, bool)
        nothing = Progress(carry[_STEPS], nobody, nobody, _Zeros())
        for term in self.terms.values():
            with at(term):
                function = construct(term)
                value, memory = function.init() if term.has_memory else (function(nothing), ())
                carry[term.path] = CurriculumState(strong(jnp.asarray(value)), strong(memory))
        return carry

    def update(
        self,
        carry: dict[str, Any],
        done_E: Bool[Array, " E"],
        terminated_E: Bool[Array, " E"],
        episode_E: dict[str, Float[Array, " E"]],
    ) -> dict[str, Any]:
        """The carry after a step of all envs."""
        if not self.terms:
            return carry
        progress = Progress(carry[_STEPS] + 1, done_E, terminated_E, episode_E)
        new: dict[str, Any] = {_STEPS: progress.num_steps}
        for term in self.terms.values():
            old = carry[term.path]
            with at(term):
                function = construct(term)
                value, memory = function(progress, old.carry) if term.has_memory else (function(progress), ())
                new[term.path] = CurriculumState(
                    jnp.asarray(value, old.value.dtype),
                    jax.tree.map(lambda n, o: jnp.asarray(n, o.dtype), memory, old.carry),
                )
                if jnp.shape(value) != old.value.shape:
                    raise ConfigError(f"its value must keep the shape {old.value.shape}, not {jnp.shape(value)}")
        return new

    def log(self, carry: dict[str, Any], done_E: Bool[Array, " E"]) -> dict[str, Float[Array, ""]]:
        """Values that are numbers, by log name, counted for each episode that ends."""
        values = {name: carry[term.path].value for name, term in self.terms.items()}
        return {f"curriculum/{name}": value * jnp.sum(done_E) for name, value in values.items() if value.ndim == 0}


def levels(carry: Mapping[str, Any]) -> dict[str, float]:
    """The values of curricula in a carry, as numbers by name, those of a vector as `<name>/<i>`."""
    found: dict[str, float] = {}
    for path, state in carry.items():
        if isinstance(state, CurriculumState):
            name, value = path.removeprefix("task.curriculum."), np.asarray(state.value)
            found |= {f"{name}/{i}" if value.ndim else name: float(x) for i, x in enumerate(value.ravel())}
    return found


class _Zeros(dict):
    """Episode results before there are any."""

    def __missing__(self, name: str) -> Array:
        return jnp.zeros(1)
