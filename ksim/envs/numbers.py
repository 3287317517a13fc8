"""The numbers of a task's terms: what may differ between runs that train in one program."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from ksim.config.values import parameters
from ksim.envs.calling import construct
from ksim.envs.env import Env
from ksim.envs.episode import EpisodeSums
from ksim.envs.task import TaskTerms
from ksim.envs.terms import ObservationGroup, Term

Number: TypeAlias = float | tuple[float, ...]

_MANAGERS = ("events", "commands", "rewards", "terminations", "metrics", "curriculum")  # of a dict `terms` each


def term_numbers(terms: TaskTerms) -> dict[str, Number]:
    """Parameters of terms that are floats or lists of floats, and rewards' weights that are not 0, by YAML path.

    A reward of weight 0 is not evaluated at all, which is another program.
    """
    found: dict[str, Any] = {}
    for term in _all_terms(terms):
        for name, parameter in parameters(term.func)[0].items():
            found[f"{term.path}.{name}"] = term.params.get(name, parameter.default)
        if weight := getattr(term.settings, "weight", None):
            found[f"{term.path}.weight"] = weight
    return {path: number for path, value in found.items() if (number := as_number(value)) is not None}


def as_number(value: Any) -> Number | None:
    """A float, or the floats of a list; None for anything else, whole numbers too: they may be a length."""
    if isinstance(value, float):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, float) for item in value):
        return tuple(value)
    return None


def with_numbers(env: Env, numbers: Mapping[str, Any]) -> Env:
    """The env with other numbers in its terms.

    Args:
        env: stays as it is.
        numbers: by YAML path, as `term_numbers` has them: numbers, or arrays, which may be traced.

    Raises:
        ConfigError: an action term is not made with such a number.
    """
    new = copy.copy(env)

    def changed(terms: dict[str, Term]) -> dict[str, Term]:
        return {name: _changed(term, numbers) for name, term in terms.items()}

    for name in _MANAGERS:
        manager: Any = copy.copy(getattr(env, name))
        manager.terms = changed(manager.terms)
        setattr(new, name, manager)
    new.observations = copy.copy(env.observations)
    new.observations.groups = {
        name: ObservationGroup(group.settings, changed(group.terms)) for name, group in env.observations.groups.items()
    }
    new.actions = copy.copy(env.actions)
    new.actions.terms = changed(env.actions.terms)
    new.actions.actions = {
        name: action
        if new.actions.terms[name] is env.actions.terms[name]
        else construct(new.actions.terms[name])(env.scene)
        for name, action in env.actions.actions.items()
    }
    new.episode = EpisodeSums(new.rewards, new.metrics, env.step_dt)
    new._terms = [_changed(term, numbers) for term in env._terms]
    return new


def _all_terms(terms: TaskTerms) -> Iterator[Term]:
    for name in (*_MANAGERS, "actions"):
        yield from getattr(terms, name).values()
    for group in terms.observations.values():
        yield from group.terms.values()


def _changed(term: Term, numbers: Mapping[str, Any]) -> Term:
    own = {path.rpartition(".")[2]: x for path, x in numbers.items() if path.rpartition(".")[0] == term.path}
    if not own:
        return term
    settings = term.settings
    if "weight" in own and hasattr(settings, "weight"):
        settings = copy.copy(settings)
        object.__setattr__(settings, "weight", own.pop("weight"))  # frozen, and its checks do not take arrays
    params = {name: tuple(x) if getattr(x, "ndim", 0) else x for name, x in own.items()}
    changed = copy.copy(term)
    object.__setattr__(changed, "settings", settings)
    object.__setattr__(changed, "params", term.params | params)
    return changed
