"""Sums over the running episodes, and what is reported of them."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.carry import Flags, Memory
from ksim.envs.context import Context
from ksim.envs.managers.metrics import MetricManager, Values
from ksim.envs.managers.rewards import RewardManager, Rewards
from ksim.envs.managers.terminations import Ends
from ksim.physics.base import float_dtype


class EpisodeSums:
    """Return, length, each reward term's sum and each metric of the running episodes, by log name."""

    def __init__(self, rewards: RewardManager, metrics: MetricManager, step_dt: float):
        self.rewards = rewards
        self.metrics = metrics
        self.step_dt = step_dt

    def empty(self) -> Values:
        """One env's sums before its episode's first step."""
        zero = jnp.zeros((), float_dtype())
        episode = {"return": zero, "length": zero} | {f"reward/{name}": zero for name in self.rewards.terms}
        return episode | {f"metric/{n}": jnp.asarray(x, float_dtype()) for n, x in self.metrics.initial().items()}

    def add(self, ctx: Context, rewards: Rewards) -> tuple[Values, Flags, Memory]:
        """One env's sums with this step, by path which metrics were not finite, and what metrics remember."""
        episode = ctx.env.episode
        sums = {"return": episode["return"] + rewards.total, "length": episode["length"] + 1.0}
        sums |= {f"reward/{name}": episode[f"reward/{name}"] + x for name, x in rewards.by_term.items()}
        metrics, not_finite, memory = self.metrics.accumulate(ctx, _metrics(episode))
        return sums | {f"metric/{name}": x for name, x in metrics.items()}, not_finite, memory

    def report(self, sums: dict[str, Float[Array, " E"]]) -> dict[str, Float[Array, " E"]]:
        """The running episodes as they are reported: rewards per second, metrics reduced."""
        seconds_E = jnp.maximum(sums["length"], 1.0) * self.step_dt
        episode = {name: x / seconds_E if name.startswith("reward/") else x for name, x in sums.items()}
        reduced = self.metrics.of_episode(_metrics(sums), sums["length"])
        return episode | {f"metric/{name}": x for name, x in reduced.items()}

    @staticmethod
    def log(ends_E: Ends, episode_E: dict[str, Float[Array, " E"]]) -> Values:
        """Sums of the reports over the episodes that end."""
        over_done: dict[str, Any] = {"episodes": 1.0, "terminated": ends_E.terminated} | episode_E
        over_done |= {f"termination/{name}": end_E for name, end_E in ends_E.by_term.items()}
        return {name: jnp.sum(jnp.where(ends_E.done, x, 0.0)) for name, x in over_done.items()}


def _metrics(sums: dict[str, Array]) -> dict[str, Array]:
    return {name.removeprefix("metric/"): x for name, x in sums.items() if name.startswith("metric/")}
