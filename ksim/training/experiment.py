"""From a config to an experiment: the engine, the env and the algorithm."""

import dataclasses
from dataclasses import dataclass

from ksim.config.schema import Config
from ksim.envs import Env, make_env
from ksim.errors import ConfigError
from ksim.physics import EngineChoice, choose_engine
from ksim.rl import Algorithm
from ksim.system import jax_setup


@dataclass(frozen=True)
class Experiment:
    """What a config describes, built.

    Attributes:
        cfg: the config, its engine resolved.
        engine: which engine steps the physics, and why.
        env: the environment.
        algorithm: what trains on it.
    """

    cfg: Config
    engine: EngineChoice
    env: Env
    algorithm: Algorithm


def build(cfg: Config) -> Experiment:
    """Build an experiment; this starts JAX's backend.

    Raises:
        ConfigError: a term breaks when it is traced, or the algorithm cannot train on this task.
    """
    jax_setup.prepare(cfg.physics.engine)
    engine = choose_engine(cfg.physics.engine, jax_setup.backend(), cfg.physics.threads)
    cfg = dataclasses.replace(cfg, physics=dataclasses.replace(cfg.physics, engine=engine.engine))
    env = make_env(cfg.task, engine.engine, cfg.physics.threads)
    algorithm = cfg.algo
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"algo._target_: must be a ksim.rl.Algorithm; {type(algorithm).__qualname__} is not")
    algorithm.check(env)
    return Experiment(cfg, engine, env, algorithm)
