"""Values that have the right type and still cannot work, alone or together; all found before anything compiles."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ksim import robots
from ksim.config import schema
from ksim.config.schema import Config, ManagerBasedRlEnvCfg, PPOCfg
from ksim.config.values import hint, listed
from ksim.envs import terms
from ksim.envs.managers import CurriculumManager, TerminationManager
from ksim.errors import ConfigError

TERRAINS = ("plane", "none")


def check(cfg: Config) -> None:
    """Everything that can be known about a run without building it.

    Raises:
        ConfigError: for the first mistake, naming its YAML path and what would be right.
    """
    _check_ppo(cfg.algo)
    if cfg.task.scene.num_envs != cfg.algo.num_envs:
        raise ConfigError(
            f"task.scene.num_envs = {cfg.task.scene.num_envs} differs from algo.num_envs = {cfg.algo.num_envs};"
            " set algo.num_envs alone, the task's follows it"
        )
    if cfg.task.seed != cfg.seed:
        raise ConfigError(f"task.seed = {cfg.task.seed} differs from seed = {cfg.seed}; set seed alone")
    _not_negative("seed", cfg.seed)
    check_task(cfg.task)
    _check_learnable(cfg.task)
    _one_of("physics.engine", cfg.physics.engine, schema.ENGINES)
    _one_of("physics.impl", cfg.physics.impl, schema.IMPLS)
    if cfg.physics.threads is not None:
        _positive("physics.threads", cfg.physics.threads)
    if cfg.logger.wandb is not None:
        _one_of("logger.wandb.mode", cfg.logger.wandb.mode, schema.WANDB_MODES)
    _positive("log.interval_iterations", cfg.log.interval_iterations)
    _positive("checkpoint.every_s", cfg.checkpoint.every_s)
    _positive("checkpoint.keep", cfg.checkpoint.keep)
    _not_negative("eval.episodes", cfg.eval.episodes)
    if cfg.eval.interval_steps is not None:
        _positive("eval.interval_steps", cfg.eval.interval_steps)
    _positive("eval.interval_episodes", cfg.eval.interval_episodes)
    _positive("eval.video_length_s", cfg.eval.video_length_s)


def check_task(task: ManagerBasedRlEnvCfg) -> None:
    """The task alone: numbers, the robot's files, and every term of every manager.

    Raises:
        ConfigError: as `check`.
    """
    _positive("task.decimation", task.decimation)
    _positive("task.scene.num_envs", task.scene.num_envs)
    _one_of("task.scene.terrain", task.scene.terrain, TERRAINS)
    _not_negative("task.episode_length_s", task.episode_length_s)
    sim = task.sim
    _positive("task.sim.timestep", sim.timestep)
    _one_of("task.sim.integrator", sim.integrator, schema.INTEGRATORS)
    _one_of("task.sim.solver", sim.solver, schema.SOLVERS)
    _one_of("task.sim.cone", sim.cone, schema.CONES)
    _positive("task.sim.iterations", sim.iterations)
    _positive("task.sim.ls_iterations", sim.ls_iterations)
    _positive("task.sim.impratio", sim.impratio)
    for name, size in (("gravity", 3), ("contact_solref", 2), ("contact_solimp", 5)):
        value = getattr(sim, name)
        if value is not None and len(value) != size:
            raise ConfigError(f"task.sim.{name}: must be a list of {size} numbers, or null for the MJCF's")
    if sim.contact_margin is not None:
        _not_negative("task.sim.contact_margin", sim.contact_margin)
    for name in ("position", "target"):
        if len(getattr(task.viewer, name)) != 3:
            raise ConfigError(f"task.viewer.{name}: must be a list of 3 numbers")
    _positive("task.viewer.width", task.viewer.width)
    _positive("task.viewer.height", task.viewer.height)
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
    for name in (
        "num_envs num_env_states_per_minibatch num_minibatches num_learning_epochs total_steps clip learning_rate"
        " desired_kl min_learning_rate max_learning_rate max_grad_norm init_std"
    ).split():
        _positive(f"algo.{name}", getattr(algo, name))
    for name in ("value_coef", "entropy_coef"):
        _not_negative(f"algo.{name}", getattr(algo, name))
    if algo.desired_kl_decay_steps is not None:
        _positive("algo.desired_kl_decay_steps", algo.desired_kl_decay_steps)
    if not 0 < algo.gamma <= 1:
        raise ConfigError(f"algo.gamma: must be above 0 and at most 1, not {algo.gamma}")
    if not 0 <= algo.lam <= 1:
        raise ConfigError(f"algo.lam: must be from 0 to 1, not {algo.lam}")
    _one_of("algo.schedule", algo.schedule, schema.SCHEDULES)
    _one_of("algo.activation", algo.activation, schema.ACTIVATIONS)
    _one_of("algo.symmetry", algo.symmetry, schema.SYMMETRIES)
    for name in ("actor_hidden", "critic_hidden"):
        for width in getattr(algo, name):
            _positive(f"algo.{name}", width)
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


def _positive(path: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{path}: must be above 0, not {value}")


def _not_negative(path: str, value: float | None) -> None:
    if value is None or not (value >= 0 and math.isfinite(value)):
        raise ConfigError(f"{path}: must be 0 or more, not {value}")


def _one_of(path: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"{path}: there is no '{value}'{hint(value, known)}; there are {listed(known)}")
