"""From the term dictionaries of a task to checked functions.

A term is written ``name: {_target_: dotted.path, <settings>, <parameters>}``. Its manager's settings dataclass names
the settings; every other key is a parameter of the target, checked by name and type against the target's annotations
before anything compiles. Settings win where a name is both.

A target is a function ``func(ctx, *, param: type = default)``, of which the keyword-only arguments are the parameters,
or a class (an `equinox.Module`), of which the constructor's arguments are. A class with memory has
``init(ctx) -> memory``, called in the first state of each episode, and ``__call__(ctx, memory) -> (value, memory)``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ksim.config.targets import TARGET, locate, target_name
from ksim.config.values import build, convert, parameters
from ksim.config.words import choices, hint, shown
from ksim.envs.settings import ObservationGroupCfg, ObservationSettings
from ksim.errors import ConfigError


@dataclass(frozen=True)
class Term:
    """One resolved term: ``func(ctx, **params)``, or ``func(**params)`` builds it where `func` is a class."""

    name: str  # its key in the task
    path: str  # where it stands in the config, for messages: "task.rewards.upright"
    func: Callable[..., Any]
    params: dict[str, Any]  # what the config gives, checked; the target's own defaults fill in the rest
    settings: Any  # an instance of the manager's settings dataclass
    driven: dict[str, str] = field(default_factory=dict)  # parameters that a curriculum sets: parameter -> curriculum

    @property
    def is_class(self) -> bool:
        """Whether the target is a class that is built first, such as a term with memory."""
        return inspect.isclass(self.func)

    @property
    def has_memory(self) -> bool:
        """Whether the term remembers something: its class has an `init` that gives the memory's first value."""
        return self.is_class and hasattr(self.func, "init")

    @property
    def parameter_names(self) -> list[str]:
        """The parameters that the target has."""
        return list(parameters(self.func)[0])

    def with_driven(self, driven: dict[str, str]) -> Term:
        """The term with parameters that curricula set."""
        return dataclasses.replace(self, driven=driven)


@dataclass(frozen=True)
class ObservationGroup:
    """One resolved observation group."""

    settings: ObservationGroupCfg
    terms: dict[str, Term]


def resolve(path: str, terms: Mapping[str, Any], settings: type) -> dict[str, Term]:
    """The terms of one manager, in their order.

    Args:
        path: where `terms` stands in the config, such as "task.rewards".
        terms: name -> ``{_target_: ..., ...}``, or None for a term that a derived task removed.
        settings: the manager's settings dataclass.

    Raises:
        ConfigError: naming the YAML path, for anything that is not right.
    """
    if not isinstance(terms, Mapping):
        raise ConfigError(f"{path}: must be a mapping of names to terms, not {shown(terms)}")
    found = {}
    for name, term in terms.items():
        if isinstance(term, Mapping) and TARGET not in term:
            whole = [str(other) for other, given in terms.items() if isinstance(given, Mapping) and TARGET in given]
            if near := hint(str(name), whole):
                raise ConfigError(f"{path}.{name}: there is no such term{near}; a new one needs a '{TARGET}'")
        if term is not None:
            found[str(name)] = _resolve_term(f"{path}.{name}", str(name), term, settings)
    return found


def resolve_groups(path: str, groups: Mapping[str, Any]) -> dict[str, ObservationGroup]:
    """The observation groups of a task: ``{group: {terms: {...}, <ObservationGroupCfg>}}``; null removes a group.

    Raises:
        ConfigError: as `resolve`.
    """
    if not isinstance(groups, Mapping):
        raise ConfigError(f"{path}: must be a mapping of names to observation groups, not {shown(groups)}")
    resolved = {}
    for name, group in groups.items():
        if group is None:
            continue
        group_path = f"{path}.{name}"
        if not isinstance(group, Mapping):
            raise ConfigError(f"{group_path}: must be a mapping with 'terms', not {shown(group)}")
        known = ["terms", *(f.name for f in dataclasses.fields(ObservationGroupCfg))]
        for key in group:
            if key not in known:
                inner = f" (did you mean 'terms.{key}'?)" if key in (group.get("terms") or ()) else ""
                raise ConfigError(f"{group_path}.{key}: no such key{inner or hint(str(key), known) or choices(known)}")
        if group.get("terms") is None:
            whole = [str(other) for other, given in groups.items() if isinstance(given, Mapping) and "terms" in given]
            if near := hint(str(name), whole):
                raise ConfigError(f"{group_path}: there is no such group{near}; a new one needs 'terms'")
            raise ConfigError(f"{group_path}: 'terms' is missing")
        settings = build(ObservationGroupCfg, {k: v for k, v in group.items() if k != "terms"}, group_path)
        resolved[str(name)] = ObservationGroup(
            settings, resolve(f"{group_path}.terms", group["terms"], ObservationSettings)
        )
    return resolved


def _resolve_term(path: str, name: str, term: Any, settings: type) -> Term:
    if not isinstance(term, Mapping):
        raise ConfigError(f"{path}: must be a mapping with '{TARGET}', not {shown(term)}")
    if TARGET not in term:
        raise ConfigError(f"{path}: '{TARGET}' is missing")
    func = locate(term[TARGET], path)
    setting_names = [f.name for f in dataclasses.fields(settings)]
    params, is_open = parameters(func)
    given_settings, given_params = {}, {}
    for key, value in term.items():
        if key == TARGET:
            continue
        if key in setting_names:
            given_settings[key] = value
        elif key in params:
            given_params[key] = convert(value, params[key].annotation, f"{path}.{key}")
            _check_conventions(f"{path}.{key}", str(key), given_params[key])
        elif is_open and isinstance(key, str):
            given_params[key] = value
        else:
            known = [*params, *setting_names]
            wrong = f"{path}.{key}: {target_name(func)} has no parameter '{key}'"
            raise ConfigError(wrong + (_positional_hint(func, str(key)) or hint(str(key), known) or choices(known)))
    for key, param in params.items():
        if param.default is inspect.Parameter.empty and key not in given_params and key not in setting_names:
            raise ConfigError(f"{path}: {target_name(func)} needs the parameter '{key}'")
    return Term(name, path, func, given_params, build(settings, given_settings, path))


def _positional_hint(func: Callable[..., Any], name: str) -> str:
    if not inspect.isclass(func) and name in inspect.signature(func).parameters:
        return f"; in its definition, '{name}' must come after a '*' to be a parameter"
    return ""


def _check_conventions(path: str, name: str, value: Any) -> None:
    """What a parameter's name promises: a standard deviation is positive, a range is ordered."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (name == "std" or name.endswith("_std")) and not value > 0:
        raise ConfigError(f"{path}: a standard deviation must be positive, not {value}")
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
    if is_pair and (name == "range" or "_range" in name) and value[0] > value[1]:
        raise ConfigError(f"{path}: a range must be [lowest, highest], not {shown(value)}")
