"""A config that a run can rely on: everything that can be known without building it is checked."""

from __future__ import annotations

import dataclasses
import os

from ksim.config import compose, devices, fields
from ksim.config.schema import Config, ManagerBasedRlEnvCfg
from ksim.config.targets import locate
from ksim.config.words import hint
from ksim.envs.check import check_task
from ksim.errors import ConfigError, KsimError
from ksim.evaluation import conditions
from ksim.loggers import build as loggers
from ksim.store import checkpoint, run_dir


def checked(cfg: Config) -> Config:
    """The config, if it has no mistake.

    Raises:
        ConfigError: for the first mistake, naming its YAML path and what would be right.
    """
    fields.check(cfg)
    if "." in cfg.physics.engine:
        locate(cfg.physics.engine, "physics.engine")
    devices.check(cfg)
    check_task(cfg.task)
    if isinstance(cfg.task, ManagerBasedRlEnvCfg):
        _check_learnable(cfg.task)
    return cfg


def checked_new(cfg: Config) -> Config:
    """The config of a run that is to start, if it has no mistake; `init_from` is then the path of a run directory.

    Raises:
        ConfigError: as `checked`, and where there is no run or no checkpoint to start from.
    """
    if cfg.init_from is not None:  # `latest` may be another run later
        cfg = dataclasses.replace(cfg, init_from=_init_from(cfg.init_from, cfg.init_checkpoint, cfg.runs_dir))
    loggers.check(cfg.logger)
    conditions.check(checked(cfg))
    return cfg


def load_checked(path: str | os.PathLike[str]) -> Config:
    """A run's `config.yaml`, if it has no mistake.

    Raises:
        ConfigError: as `checked` and `ksim.config.compose.load_frozen`.
    """
    cfg = compose.load_frozen(path)
    try:
        return checked(cfg)
    except ConfigError as error:
        raise ConfigError(f"{path} is not a config of this version of ksim: {error}") from error


def _init_from(spec: str, chosen: str, runs_dir: str) -> str:
    try:
        run = run_dir.open(spec, runs_dir)
        checkpoint.find(run.checkpoints, chosen, lambda message: None)
    except KsimError as error:
        raise ConfigError(f"init_from: {error}") from error
    return str(run.path)


def _check_learnable(task: ManagerBasedRlEnvCfg) -> None:
    """What a learner cannot do without."""
    if not any(term is not None for term in task.actions.values()):
        raise ConfigError("task.actions: there is none, so there is nothing to learn")
    groups = [name for name, group in task.observations.items() if group is not None]
    if "actor" not in groups:
        raise ConfigError(f"task.observations: the group 'actor' is missing{hint('actor', groups)}")
