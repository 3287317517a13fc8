"""Algorithms as plain functions over an env; no Hydra and no disk here."""

from ksim.rl.algorithm import Algorithm, Metrics, env_metrics, train_chunk
from ksim.rl.distribution import Distribution, Normal
from ksim.rl.policy import Policy
from ksim.rl.ppo import PPO, PPOState
from ksim.rl.rollout import Trajectory, rollout
from ksim.rl.streams import random_key

__all__ = [
    "PPO",
    "Algorithm",
    "Distribution",
    "Metrics",
    "Normal",
    "PPOState",
    "Policy",
    "Trajectory",
    "env_metrics",
    "random_key",
    "rollout",
    "train_chunk",
]
