"""The algorithm of a config: a `_target_` and settings in YAML, with what the task changes in them.

``algo`` in YAML is ``{_target_: my_module.RandomSearch, <settings>}``: the dotted path of a dataclass, of which the
fields are the settings. A task changes them in ``algo: {<choice of algo>: {<settings>}}``, which lies over the values
of the algo group and under the command line's.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override

from ksim.config.targets import TARGET, locate, target_name
from ksim.config.task import algo_sections
from ksim.config.values import build as build_dataclass
from ksim.config.values import plain as plain_values
from ksim.config.values import settings_of
from ksim.config.words import listed, shown
from ksim.errors import ConfigError
from ksim.system import trees

log = logging.getLogger(__name__)

# What ksim reads of every algorithm; the rest is its own.
_EVERY_ONE_HAS = ("num_envs", "total_steps", "steps_per_iteration")


def merge_task(config: dict[str, Any], choice: str, overrides: Sequence[Override]) -> dict[str, str]:
    """Merge what the task changes into `algo`, and take it out of the task.

    Args:
        config: the composition, interpolations not resolved; it is changed.
        choice: which algorithm was chosen, by the name of its file in the group `algo`.
        overrides: of the command line, which `config` has already; they stay above the task.

    Returns:
        Where a setting comes from that the task says: "gamma" -> "task.algo.ppo.gamma".

    Raises:
        ConfigError: the task's sections are no mappings.
    """
    task = config.get("task")
    sections = algo_sections(task) if isinstance(task, dict) else None
    if isinstance(task, dict):
        task.pop("algo", None)
    algo = config.get("algo")
    if not sections or not isinstance(algo, dict):
        return {}
    _check_sections(sections)
    if choice not in sections:
        _tell(f"the task says nothing about algo={choice}; it does about {listed(sections)} (task.algo)")
    section = sections.get(choice) or {}
    merged = trees.merge(algo, section)
    given = [o.key_or_group.removeprefix("algo.") for o in overrides if o.key_or_group.startswith("algo.")]
    for path in given:
        if (value := trees.get(algo, path, _DELETED)) is _DELETED:
            trees.delete(merged, path)
        else:
            trees.put(merged, path, value)
    config["algo"] = merged
    first = {path.partition(".")[0] for path in given}
    return {key: f"task.algo.{choice}.{key}" for key in section if key not in first}


_DELETED = object()


def _check_sections(sections: Any) -> None:
    for name, section in sections.items():
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError(
                f"task.algo.{name}: must be a mapping of settings of algo={name}, as a task has a section for each"
                f" algorithm, such as algo: {{ppo: {{num_envs: 512}}}}; not {shown(section)}"
            )


@functools.cache
def _tell(message: str) -> None:
    """Log a line once: a run is composed several times."""
    log.info(message)


def class_of(algo: Any) -> type:
    """The class that an algorithm's `_target_` names.

    Raises:
        ConfigError: there is none, or it is no dataclass.
    """
    if not isinstance(algo, Mapping):
        raise ConfigError(f"algo: must be a mapping with '{TARGET}', not {shown(algo)}")
    if TARGET not in algo:
        raise ConfigError(f"algo: '{TARGET}' is missing: the dotted path of the algorithm's class")
    found = locate(algo[TARGET], "algo")
    if not (inspect.isclass(found) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"algo: {algo[TARGET]} is not a dataclass, whose fields would be the settings")
    return found


def with_defaults(algo: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the defaults of its class where it says nothing, so that interpolations find them."""
    defaults = {}
    for name, field in settings_of(class_of(algo)).items():
        if field.default is not dataclasses.MISSING:
            defaults[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[name] = field.default_factory()
    return trees.merge(plain_values(defaults), algo)


def build(algo: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Any:
    """The algorithm as an instance of its class.

    Args:
        algo: `_target_` and settings, resolved.
        places: where settings stand that are not at "algo.<name>", for messages.

    Raises:
        ConfigError: as `ksim.config.values.build`, and where the class is no algorithm.
    """
    cls = class_of(algo)
    algorithm = build_dataclass(cls, {k: v for k, v in algo.items() if k != TARGET}, "algo", places)
    for name in _EVERY_ONE_HAS:
        if not hasattr(algorithm, name):
            raise ConfigError(f"algo: {target_name(cls)} has no '{name}', as every algorithm has")
    if algorithm.num_envs < 1:
        raise ConfigError(f"algo.num_envs: must be above 0, not {algorithm.num_envs}")
    return algorithm


def plain(algorithm: Any) -> dict[str, Any]:
    """The mapping of which `build` makes the same algorithm."""
    values = {name: getattr(algorithm, name) for name in settings_of(type(algorithm))}
    return {TARGET: target_name(type(algorithm)), **plain_values(values)}
