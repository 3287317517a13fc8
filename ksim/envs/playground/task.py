"""One of Playground's environments as a task: `task=playground task.env=CartpoleBalance`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ksim.config.fields import setting
from ksim.config.schema import TaskCfg
from ksim.envs.env import Env
from ksim.envs.playground import library
from ksim.errors import ConfigError

_ACTIVATION, _CLIP, _LAM = "silu", 0.3, 0.95  # Brax's, where Playground says nothing
_STD = 0.7  # what Brax's networks begin with
_ACTOR, _CRITIC = (32, 32, 32, 32), (256, 256, 256, 256, 256)


@dataclass(kw_only=True)
class PlaygroundCfg(TaskCfg):
    """The task; its `algo` settings are those that Playground's authors tuned for the environment."""

    env: str  # one of Playground's registry, such as CartpoleBalance
    config_overrides: dict[str, Any] = field(default_factory=dict)  # of its own settings, nested or with dotted keys
    max_steps: int | None = setting(None, above=0)  # time limit of an episode, in env steps; None: the environment's
    domain_randomization: bool = False  # the registry's own, drawn once for each env
    # The learner's rewards are multiplied by this, those in logs are not: values are then of the size of tens.
    reward_scale: float = setting(0.1, above=0)
    menagerie: str | None = None  # folder of MuJoCo Menagerie, for robots that are there; None: wherever it is found

    def check(self) -> None:
        """See `TaskCfg.check`."""
        library.check_name(self.env, "task.env")
        library.check_overrides(self.env, library.flat(self.config_overrides), "task.config_overrides")
        if self.domain_randomization:
            library.domain_randomizer(self.env)

    def make_env(self, engine: str, threads: int | None) -> Env:
        """See `TaskCfg.make_env`."""
        from ksim.envs.playground.env import PlaygroundEnv  # late: MJX is slow to import, and a check needs none

        return PlaygroundEnv(self, engine, threads)

    @classmethod
    def algo_settings(cls, task: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `TaskCfg.algo_settings`."""
        name = task.get("env")
        if not isinstance(name, str) or name not in library.names():
            return {}  # `check` says so
        return {"ppo": ppo_settings(name)}


def ppo_facts(name: str) -> Mapping[str, Any]:
    """What Playground's authors tuned for Brax's PPO on an environment; empty where they did not."""
    for suite in ("dm_control_suite", "locomotion", "manipulation"):
        if name in getattr(library.package(), suite).ALL_ENVS:
            module = importlib.import_module(f"mujoco_playground.config.{suite}_params")
            try:
                found: Mapping[str, Any] = module.brax_ppo_config(name).to_dict()
                return found
            except ValueError:  # they have not
                break
    return {}


def ppo_settings(name: str) -> dict[str, Any]:
    """The same in the words of ksim's PPO.

    Brax counts a minibatch in pieces of `unroll_length` env steps; ksim in env states. Brax's actions are squashed by
    tanh, with a spread that the network gives, ksim's are a Gaussian that is clipped, as wide as Brax's at first. Left
    out is `reward_scaling`, which is tuned for the weights of Brax's losses: see `PlaygroundCfg.reward_scale`.
    """
    facts = ppo_facts(name)
    if not facts:
        return {}
    networks = facts.get("network_factory", {})
    num_envs, num_minibatches = facts["num_envs"], facts["num_minibatches"]
    per_minibatch = facts["batch_size"] * facts["unroll_length"]
    unit = math.lcm(num_envs, num_minibatches)
    dataset = math.ceil(per_minibatch * num_minibatches / unit) * unit
    return {
        "num_envs": num_envs,
        "total_steps": facts["num_timesteps"],
        "num_env_states_per_minibatch": dataset // num_minibatches,
        "num_minibatches": num_minibatches,
        "num_learning_epochs": facts["num_updates_per_batch"],
        "gamma": facts["discounting"],
        "lam": _LAM,
        "clip": facts.get("clipping_epsilon", _CLIP),
        "learning_rate": facts["learning_rate"],
        "schedule": "fixed",
        "entropy_coef": facts["entropy_cost"],
        "init_std": _STD,
        "actor_hidden": list(networks.get("policy_hidden_layer_sizes", _ACTOR)),
        "critic_hidden": list(networks.get("value_hidden_layer_sizes", _CRITIC)),
        "activation": _ACTIVATION,
    }


def observation_keys(name: str, keys: Mapping[str, Any]) -> dict[str, str]:
    """Which of an environment's observations actor and critic see, by group.

    Raises:
        ConfigError: one of these is not there.
    """
    networks = ppo_facts(name).get("network_factory", {})
    found = {
        "actor": networks.get("policy_obs_key", "state"),
        "critic": networks.get("value_obs_key", "privileged_state" if "privileged_state" in keys else "state"),
    }
    for group, key in found.items():
        if key not in keys:
            raise ConfigError(f"task.env: {name} has no observation {key!r} for the {group}; it has {sorted(keys)}")
    return found
