"""What Hydra merges the YAML files into: the schema, with a task of terms or one of the kind that its YAML names."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from ksim.config.schema import Config, ManagerBasedRlEnvCfg
from ksim.config.task import is_foreign


@dataclass(kw_only=True)
class _TaskYaml(ManagerBasedRlEnvCfg):
    """The YAML file of a task of terms."""

    algo: dict[str, Any] = field(default_factory=dict)  # choice of algo -> settings that this task changes in it


@dataclass(kw_only=True)
class _Composition(Config):
    """What the YAML files are merged into."""

    task: Any = MISSING
    algo: dict[str, Any] = field(default_factory=dict)


def store(foreign: bool = False) -> None:
    """Have Hydra compose with the schema of a task of terms, or of one of another kind.

    Every key is checked where it is merged, but for those of an algorithm and of a foreign task, which have a schema
    of their own.
    """
    ConfigStore.instance().store(name="schema", node=_schema(foreign))


@cache
def _schema(foreign: bool) -> DictConfig:
    node: DictConfig = OmegaConf.structured(_Composition)
    node.task = OmegaConf.create({}) if foreign else OmegaConf.structured(_TaskYaml)
    for open_node in (node.algo, node.task if foreign else node.task.algo):
        OmegaConf.set_struct(open_node, False)
    return node


def node_of(task: Any) -> DictConfig:
    """The schema of a config that was composed before, to merge one into; a foreign task's keys are open.

    Args:
        task: as YAML has it; None where there is none.
    """
    node: DictConfig = OmegaConf.structured(Config)
    if task is not None:
        node.task = OmegaConf.create({}) if is_foreign(task) else OmegaConf.structured(ManagerBasedRlEnvCfg)
    return node


store()
