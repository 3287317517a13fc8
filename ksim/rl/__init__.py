"""Proximal policy optimization as plain functions over an env; no Hydra and no disk here."""

from ksim.rl.networks import ActorCritic, make_actor_critic
from ksim.rl.normalizer import Normalizer
from ksim.rl.ppo import PPO, TrainState, init_train_state, train_chunk, train_iteration

__all__ = [
    "PPO",
    "ActorCritic",
    "Normalizer",
    "TrainState",
    "init_train_state",
    "make_actor_critic",
    "train_chunk",
    "train_iteration",
]
