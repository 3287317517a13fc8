"""Values that have the right type and still cannot work, alone or together; all found before anything compiles."""

from __future__ import annotations

import math

from ksim import robots
from ksim.config import fields
from ksim.config.schema import Config, ManagerBasedRlEnvCfg, PPOCfg
from ksim.config.words import hint
from ksim.envs import terms
from ksim.envs.managers import CurriculumManager, TerminationManager
from ksim.errors import ConfigError


def check(cfg: Config) -> None:
    """Everything that can be known about a run without building it.

    Raises:
        ConfigError: for the first mistake, naming its YAML path and what would be right.
    """
    fields.check(cfg.algo, "algo")  # before what follows it in the task
    fields.check(cfg)
    _check_ppo(cfg.algo)
    if cfg.task.scene.num_envs != cfg.algo.num_envs:
        raise ConfigError(
            f"task.scene.num_envs = {cfg.task.scene.num_envs} differs from algo.num_envs = {cfg.algo.num_envs};"
            " set algo.num_envs alone, the task's follows it"
        )
    if cfg.task.seed != cfg.seed:
        raise ConfigError(f"task.seed = {cfg.task.seed} differs from seed = {cfg.seed}; set seed alone")
    if "." in cfg.physics.engine:
        terms.locate(cfg.physics.engine, "physics.engine")
    check_task(cfg.task)
    _check_learnable(cfg.task)


def check_task(task: ManagerBasedRlEnvCfg) -> None:
    """The task alone: numbers, the robot's files, and every term of every manager.

    Raises:
        ConfigError: as `check`.
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


def _check_learnable(task: ManagerBasedRlEnvCfg) -> None:
    """What a learner cannot do without."""
    if not any(term is not None for term in task.actions.values()):
        raise ConfigError("task.actions: there is none, so there is nothing to learn")
    groups = [name for name, group in task.observations.items() if group is not None]
    if "actor" not in groups:
        raise ConfigError(f"task.observations: the group 'actor' is missing{hint('actor', groups)}")


def _check_ppo(algo: PPOCfg) -> None:
    if algo.schedule == "adaptive" and not algo.min_learning_rate <= algo.learning_rate <= algo.max_learning_rate:
        raise ConfigError(
            f"algo.learning_rate = {algo.learning_rate} is not between min_learning_rate = {algo.min_learning_rate}"
            f" and max_learning_rate = {algo.max_learning_rate}"
        )
    if algo.dataset_size % algo.num_envs:
        # The next dataset that both the envs and the minibatches divide.
        unit = math.lcm(algo.num_envs, algo.num_minibatches)
        dataset = math.ceil(algo.dataset_size / unit) * unit
        raise ConfigError(
            f"algo: num_env_states_per_minibatch x num_minibatches = {algo.dataset_size} is not a multiple of num_envs"
            f" = {algo.num_envs}; {dataset} would be"
            f" (algo.num_env_states_per_minibatch={dataset // algo.num_minibatches})"
        )
