"""The terms of a task, looked up and checked: all that can be known of it before a model is compiled."""

from __future__ import annotations

from dataclasses import dataclass

from ksim.config.schema import ManagerBasedRlEnvCfg
from ksim.envs import settings
from ksim.envs.managers.curriculum import CurriculumManager
from ksim.envs.managers.terminations import TerminationManager
from ksim.envs.terms import ObservationGroup, Term, resolve, resolve_groups
from ksim.errors import ConfigError


@dataclass(frozen=True)
class TaskTerms:
    """The terms of a task by manager, with the parameters marked that curricula set."""

    events: dict[str, Term]
    commands: dict[str, Term]
    actions: dict[str, Term]
    observations: dict[str, ObservationGroup]
    rewards: dict[str, Term]
    terminations: dict[str, Term]
    metrics: dict[str, Term]
    curriculum: dict[str, Term]

    @classmethod
    def of(cls, task: ManagerBasedRlEnvCfg) -> TaskTerms:
        """Look them up, in the order of the fields.

        Raises:
            ConfigError: for the first mistake, naming its YAML path and what would be right.
        """

        def terms(kind: str, settings: type) -> dict[str, Term]:
            return resolve(f"task.{kind}", getattr(task, kind), settings)

        found: dict[str, dict[str, Term]] = {
            "events": terms("events", settings.EventSettings),
            "commands": terms("commands", settings.CommandSettings),
        }
        actions = terms("actions", settings.ActionSettings)
        observations = resolve_groups("task.observations", task.observations)
        found |= {
            "rewards": terms("rewards", settings.RewardSettings),
            "terminations": terms("terminations", settings.TerminationSettings),
            "metrics": terms("metrics", settings.MetricSettings),
        }
        curriculum = terms("curriculum", settings.CurriculumSettings)
        curricula = CurriculumManager(curriculum)
        driven = {kind: curricula.drive(f"task.{kind}", of_kind) for kind, of_kind in found.items()}
        _check_time_outs(driven["terminations"], task.episode_length_s)
        return cls(**driven, actions=actions, observations=observations, curriculum=curriculum)


def _check_time_outs(terminations: dict[str, Term], episode_length_s: float) -> None:
    for name in TerminationManager(terminations).needs_time_limit if episode_length_s <= 0 else ():
        path = terminations[name].path
        raise ConfigError(
            f"{path}: a time-out needs task.episode_length_s above 0; set it, or {path}=null for episodes without a"
            " time limit"
        )
