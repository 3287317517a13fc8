"""A training's own states and actions, played again: by C MuJoCo alone, by the engine, by the env, with the policy."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco.batch import Batch, SimulationError

from ksim.envs import Env
from ksim.envs.carry import EnvCarry, Obs
from ksim.physics import PhysicsState
from ksim.rl import Policy, rollout


class Recording(eqx.Module):
    """One rollout of a training.

    Attributes:
        env_carry: the envs before it.
        action_TEa: the actions.
        physics: (T, E, ...) what each env step asked of the engine: states, per-env model fields and controls.
        model_fields: by name, (T, E, ...).
        ctrl_TESu: of every substep.
    """

    env_carry: EnvCarry
    action_TEa: Float[Array, "T E a"]
    physics: PhysicsState
    model_fields: dict[str, Array]
    ctrl_TESu: Float[Array, "T E S nu"]


class _Tap:
    """An engine that keeps what it was last asked to step."""

    def __init__(self, physics: Any):
        self.physics = physics

    def step(self, *args: Any) -> PhysicsState:
        self.asked = args
        new: PhysicsState = self.physics.step(*args)
        return new

    def __getattr__(self, name: str) -> Any:
        return getattr(self.physics, name)


def record(env: Env, policy: Policy, env_carry: EnvCarry, obs: Obs, key: PRNGKeyArray, num_steps: int) -> Recording:
    """A rollout of the stochastic policy, with what it asked of the engine."""
    tapped = copy.copy(env)
    tapped.physics = tap = _Tap(env.physics)

    def step(now: tuple, key: Array) -> tuple[tuple, tuple]:
        state, obs, carry = now
        distribution, carry = policy(obs["actor"], carry)
        action_Ea = distribution.sample(key)
        state, out = tapped.step(state, action_Ea)
        return (state, out.obs, carry), (action_Ea, tap.asked)

    start = (env_carry, obs, policy.init_carry(len(obs["actor"])))
    _, (action_TEa, asked) = jax.lax.scan(step, start, jax.random.split(key, num_steps))
    physics, model_fields, ctrl_TESu = asked
    return Recording(env_carry, action_TEa, physics, dict(model_fields), ctrl_TESu)


def record_actions(
    env: Env, policy: Policy, env_carry: EnvCarry, obs: Obs, key: PRNGKeyArray, num_steps: int
) -> Recording:
    """As `record`, of an env whose physics is its own: the actions alone."""
    trajectory = rollout(env, policy, env_carry, obs, policy.init_carry(len(obs["actor"])), key, num_steps)[3]
    physics = env_carry.envs.physics
    return Recording(env_carry, trajectory.action, physics, {}, trajectory.action[:, :, None])


def play(env: Env, policy: Policy, env_carry: EnvCarry, obs: Obs, key: PRNGKeyArray, num_steps: int) -> Any:
    """The rollout of a training by itself; of everything that it returns, the sums, so that nothing is left out."""
    env_carry, obs, _, trajectory, log = rollout(
        env, policy, env_carry, obs, policy.init_carry(len(obs["actor"])), key, num_steps
    )
    return env_carry, _sums(trajectory), log


def step_engine(
    env: Env, physics: PhysicsState, model_fields: dict[str, Array], ctrl_TESu: Float[Array, "T E S nu"]
) -> Any:
    """The engine alone on recorded inputs, called as the env calls it."""

    def step(carry: Array, asked: tuple) -> tuple[Array, Any]:
        # The carry keeps the calls in order, as the state does in a training.
        state, fields, ctrl_ESu = asked
        state = dataclasses.replace(state, qpos=state.qpos + 0.0 * carry)
        new = env.physics.step(state, fields, ctrl_ESu)
        return new.qpos.ravel()[0], jax.tree.map(jnp.sum, new)

    return jax.lax.scan(step, jnp.zeros((), physics.qpos.dtype), (physics, model_fields, ctrl_TESu))


def step_env(env: Env, state: EnvCarry, action_TEa: Float[Array, "T E a"]) -> Any:
    """The env alone on recorded actions; of everything that it returns, the sums, so that nothing is left out."""

    def step(state: EnvCarry, action_Ea: Array) -> tuple[EnvCarry, Any]:
        state, out = env.step(state, action_Ea)
        return state, _sums(out)

    return jax.lax.scan(step, state, action_TEa)


def _sums(tree: Any) -> Any:
    """The sum of every leaf that is a number; random keys are none."""
    return jax.tree.map(jnp.sum, eqx.filter(tree, lambda x: not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)))


class Ceiling:
    """Recorded states and controls through C MuJoCo's pool, no outputs bound: what this machine can do at most.

    Args:
        model: the scene of the recording.
        recording: the states and controls.
        threads: size of the pool.
    """

    def __init__(self, model: mujoco.MjModel, recording: Recording, threads: int):
        self._physics: PhysicsState = jax.device_get(recording.physics)
        self._model_fields = jax.device_get(recording.model_fields)
        self._ctrl_TESu = np.asarray(recording.ctrl_TESu)
        # Controls that are held over the substeps need one call, others one each.
        self._held = bool((self._ctrl_TESu == self._ctrl_TESu[:, :, :1]).all())
        self.batch = Batch(model, nsim=self._ctrl_TESu.shape[1], nthread=threads)
        for name in self._model_fields:
            self.batch.expand(name)

    def seconds(self) -> float:
        """Time of the calls that step, over the whole rollout; writing the states does not count."""
        num_steps, _, num_substeps, _ = self._ctrl_TESu.shape
        calls = [(0, num_substeps)] if self._held else [(s, 1) for s in range(num_substeps)]
        total = 0.0
        for t in range(num_steps):
            for name in ("qpos", "qvel", "act", "qacc_warmstart"):  # a state's field is a view, not an output
                self.batch.bind(name)[:] = getattr(self._physics, name)[t]
            for name, value_TE in self._model_fields.items():
                expanded = self.batch.expand(name)
                expanded[:] = value_TE[t].reshape(expanded.shape)
            for s, count in calls:
                self.batch.bind("ctrl")[:] = self._ctrl_TESu[t, :, s]
                begin = time.perf_counter()
                with contextlib.suppress(SimulationError):
                    self.batch.step(nstep=count)
                total += time.perf_counter() - begin
        return total


@contextlib.contextmanager
def time_in_batch() -> Iterator[list[float]]:
    """Collects the seconds that each call into C MuJoCo's pools takes."""
    spent: list[float] = []

    def timed(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - begin)

        return call

    originals = {name: getattr(Batch, name) for name in ("step", "forward")}
    try:
        for name, function in originals.items():
            setattr(Batch, name, timed(function))
        yield spent
    finally:
        for name, function in originals.items():
            setattr(Batch, name, function)
