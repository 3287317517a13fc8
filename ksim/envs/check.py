"""What can be known about a task before its env is built: numbers, the robot's files, and every term."""

from __future__ import annotations

from ksim import robots
from ksim.config import fields
from ksim.config.schema import ManagerBasedRlEnvCfg
from ksim.envs import terms
from ksim.envs.managers import CurriculumManager, TerminationManager
from ksim.errors import ConfigError


def check_task(task: ManagerBasedRlEnvCfg) -> None:
    """Check a task.

    Raises:
        ConfigError: for the first mistake, naming its YAML path and what would be right.
    """
    fields.check(task, "task")
    robots.load(task.scene.robot, task.scene.mjcf)
    _check_terms(task)


def _check_terms(task: ManagerBasedRlEnvCfg) -> None:
    """In the order in which the env loads its managers."""
    terms.resolve("task.scene.sensors", task.scene.sensors, terms.SensorSettings)
    resolved: dict[str, dict[str, terms.Term]] = {}

    def resolve(**kinds: type) -> None:
        for kind, settings in kinds.items():
            resolved[kind] = terms.resolve(f"task.{kind}", getattr(task, kind), settings)

    resolve(events=terms.EventSettings, commands=terms.CommandSettings)
    terms.resolve("task.actions", task.actions, terms.ActionSettings)
    terms.resolve_groups("task.observations", task.observations)
    resolve(rewards=terms.RewardSettings, terminations=terms.TerminationSettings, metrics=terms.MetricSettings)
    curricula = CurriculumManager(terms.resolve("task.curriculum", task.curriculum, terms.CurriculumSettings))
    for kind, found in resolved.items():
        curricula.drive(f"task.{kind}", found)
    terminations = TerminationManager(resolved["terminations"])
    for name, term in terminations.terms.items():
        if name in terminations.time_outs and task.episode_length_s <= 0:
            raise ConfigError(
                f"{term.path}: a time-out needs task.episode_length_s above 0; set it, or {term.path}=null for"
                " episodes without a time limit"
            )
