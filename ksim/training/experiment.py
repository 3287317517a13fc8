"""From a config to an experiment: the engine, the env and the algorithm."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ksim.config.schema import Config
from ksim.envs import Env, make_env
from ksim.errors import ConfigError
from ksim.physics import EngineChoice, choose_engine
from ksim.rl import PPO
from ksim.system import jax_setup


@dataclass(frozen=True)
class Experiment:
    """What a config describes, built.

    Attributes:
        cfg: the config, its engine resolved.
        engine: which engine steps the physics, and why.
        env: the environment.
        ppo: the algorithm for it.
    """

    cfg: Config
    engine: EngineChoice
    env: Env
    ppo: PPO

    def policy_like(self) -> dict[str, Any]:
        """A fresh policy: what a checkpoint's tree `policy` looks like, networks and observation statistics."""
        net, normalizer = self.ppo.init_policy(self.env, jax.random.key(0))
        return {"net": net, "normalizer": normalizer}


def build(cfg: Config) -> Experiment:
    """Build an experiment; this starts JAX's backend.

    Raises:
        ConfigError: a term breaks when it is traced, or the critic's observations are missing.
    """
    jax_setup.prepare(cfg.physics.engine)
    engine = choose_engine(cfg.physics.engine, jax_setup.backend(), cfg.physics.threads)
    cfg = dataclasses.replace(cfg, physics=dataclasses.replace(cfg.physics, engine=engine.engine))
    env = make_env(cfg.task, engine.engine, cfg.physics.threads)
    for group in ("actor", "critic"):
        if group not in env.obs_sizes:
            raise ConfigError(f"task.observations: the group {group!r} is missing")
    return Experiment(cfg, engine, env, PPO.of(cfg.algo, env))


def random_key(seed: int, purpose: str) -> jax.Array:
    """The root of a random stream: streams of different purposes do not depend on each other."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(list(_PURPOSES).index(purpose)))


_PURPOSES = ("train", "eval", "judge")
