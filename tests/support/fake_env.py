"""An env whose every number is known, with as much of `Env`'s face as the learner uses."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ksim.envs import StepOutput

FRESH = -50.0  # what an env shows after a reset


class FakePhysics(eqx.Module):
    qpos: Array

    @property
    def qvel(self) -> Array:
        return 0.0 * self.qpos


class FakeState(eqx.Module):
    physics: FakePhysics
    clock: Array  # (E,) steps since the reset
    total: Array  # (E,) sum of the rewards of the episode
    action: Array

    @property
    def envs(self) -> "FakeState":
        return self

    @property
    def memory(self) -> Array:
        return self.clock


@dataclass(frozen=True)
class FakeEnv:
    """Env i shows the steps since its reset, from 0 at first and from FRESH later, and ends after lengths[i] steps.

    Even envs are cut by a time limit, odd ones terminate. The reward is what the env shows next, plus the first
    action element. A random age is one step.
    """

    lengths: tuple[int, ...]
    is_finite_horizon: bool = False

    @property
    def commands(self) -> Any:
        return SimpleNamespace(values=lambda memory: {"goal": memory[:, None]})

    @property
    def cfg(self) -> Any:
        return SimpleNamespace(is_finite_horizon=self.is_finite_horizon)

    def reset(
        self, key: Any, num_envs: int, random_age: bool = False, curriculum: None = None
    ) -> tuple[FakeState, dict[str, Array]]:
        zero = jnp.zeros(num_envs)
        state = FakeState(FakePhysics(zero[:, None]), zero, zero, jnp.zeros((num_envs, 2)))
        return replace(state, clock=zero + 1.0) if random_age else state, self._show(zero)

    def step(self, state: FakeState, action: Array) -> tuple[FakeState, StepOutput]:
        shown = state.physics.qpos[:, 0] + 1.0
        clock = state.clock + 1.0
        reward = shown + action[:, 0]
        total = state.total + reward
        over = clock >= jnp.array(self.lengths)
        odd = jnp.arange(len(self.lengths)) % 2 == 1
        after = jnp.where(over, FRESH, shown)
        output = StepOutput(
            obs=self._show(after),
            terminal_obs=self._show(shown),
            reward=reward,
            terminated=over & odd,
            truncated=over & ~odd,
            ends={"fell": over & odd, "time_out": over & ~odd},
            episode={"return": total, "length": clock},
            log={"episodes": jnp.sum(1.0 * over)},
            terminal=FakeState(FakePhysics(shown[:, None]), clock, total, action),  # type: ignore[arg-type]
        )
        clock, total = jnp.where(over, 0.0, clock), jnp.where(over, 0.0, total)
        return FakeState(FakePhysics(after[:, None]), clock, total, action), output

    def _show(self, value: Array) -> dict[str, Array]:
        return {"actor": value[:, None], "critic": jnp.stack([value, -value], axis=1)}
