"""The task of a config: one of terms on a robot, or of the kind that a `_target_` names.

``task`` in YAML is a `ManagerBasedRlEnvCfg`, or ``{_target_: my_module.MyTaskCfg, <settings>}``: the dotted path of a
`TaskCfg`, of which the fields are the settings.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from ksim.config.schema import ManagerBasedRlEnvCfg, TaskCfg
from ksim.config.targets import TARGET, locate, target_name
from ksim.config.values import build as build_dataclass
from ksim.config.values import plain as plain_values
from ksim.config.values import settings_of
from ksim.errors import ConfigError
from ksim.system import trees


def is_foreign(task: Any) -> bool:
    """Whether a task, as YAML has it, is of a kind that a `_target_` names."""
    return isinstance(task, Mapping) and task.get(TARGET) is not None


def class_of(task: Mapping[str, Any]) -> type[TaskCfg]:
    """The class that a task's `_target_` names.

    Raises:
        ConfigError: there is none, or it is no `TaskCfg`.
    """
    found = locate(task[TARGET], "task")
    if not (inspect.isclass(found) and issubclass(found, TaskCfg) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"task: {task[TARGET]} is not a dataclass derived from ksim.config.schema.TaskCfg")
    return found


def algo_sections(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a task changes in algorithms, by choice: its own section `algo` over that of its kind."""
    own = task.get("algo") or {}
    return (
        trees.merge(class_of(task).algo_settings(task), own) if is_foreign(task) and isinstance(own, Mapping) else own
    )


def build(task: Mapping[str, Any]) -> TaskCfg:
    """A foreign task as an instance of its class.

    Raises:
        ConfigError: as `ksim.config.values.build`.
    """
    found: TaskCfg = build_dataclass(class_of(task), {k: v for k, v in task.items() if k != TARGET}, "task")
    return found


def plain(task: ManagerBasedRlEnvCfg | TaskCfg) -> dict[str, Any]:
    """The mapping of which the same task is made."""
    if isinstance(task, ManagerBasedRlEnvCfg):
        return dataclasses.asdict(task)
    values = {name: getattr(task, name) for name in settings_of(type(task))}
    return {TARGET: target_name(type(task)), **plain_values(values)}
