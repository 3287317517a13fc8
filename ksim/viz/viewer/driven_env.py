"""An env that a person takes hold of: a pulled body, a base held in place, commands held at a value."""

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.envs.carry import EnvCarry, Memory, Obs, PerEnv, Shared
from ksim.envs.context import Context
from ksim.envs.env import Env
from ksim.envs.foreign import ForeignEnv
from ksim.envs.managers.commands import CommandManager
from ksim.envs.managers.rewards import Rewards
from ksim.envs.managers.terminations import Ends
from ksim.envs.terms import Term
from ksim.envs.tree import in_each_env, replace, split_keys, where_env, with_envs
from ksim.errors import ConfigError
from ksim.physics.base import float_dtype

# Kept among what terms remember: it stays where it is through steps and resets.
PULL, HOLD, REWARDS = "viewer/pull", "viewer/hold", "viewer/rewards"
_COMMAND = "viewer/command/"
_SHOWN_FIELDS = ("ctrl", "qfrc_actuator")  # what an engine must tell besides what terms read


class Hold(eqx.Module):
    """A value that stands in for what the env would have.

    Attributes:
        on: whether it does.
        value: a command's value, or the seven positions of a floating base.
    """

    on: Bool[Array, ""]
    value: Float[Array, " n"]


class DrivenEnv(Env):
    """A task's env whose carry also holds what a person does to it; trainings do not know it.

    Per env, besides all that `Env` carries:

    - `PULL`: (nbody, 6) forces and torques on bodies, in the world frame at their centres of mass, N and N m. They
      come on top of the `xfrc_applied` of the task's events, and neither events nor terms see them.
    - `HOLD`: where the floating base is held while the rest moves; it is put back after each env step.
    - a `Hold` for each command.
    - `REWARDS`: the last step's weighted rewards, by term.
    """

    @classmethod
    def of(cls, env: Env) -> Self:
        """The same task on the same engine, to be driven.

        Raises:
            ConfigError: it is an environment that somebody else wrote, of which only its own code has the forces.
        """
        if isinstance(env, ForeignEnv):
            raise ConfigError("ksim.view shows tasks of terms; films of this one are made by python -m ksim.eval")
        return env if isinstance(env, cls) else cls(env.cfg, env.engine, env.threads)

    def _make_managers(self) -> None:
        super()._make_managers()
        self.commands = _HeldCommands(self.commands.terms, self.step_dt)

    def _trace_terms(self) -> tuple[Memory, dict[str, dict[str, int]], tuple[str, ...]]:
        memory, sizes, fields = super()._trace_terms()
        own: Memory = {PULL: _zeros(self.scene.model.nbody, 6), REWARDS: {n: _zeros() for n in self.rewards.terms}}
        if self.scene.base_qpos_adr is not None:
            own[HOLD] = _no_hold(7)
        for term in self.commands.terms.values():
            own[_COMMAND + term.path] = _no_hold(*memory[term.path].value.shape)
        return memory | own, sizes, (*fields, *(name for name in _SHOWN_FIELDS if name not in fields))

    def _inputs(self, envs: PerEnv) -> dict[str, Array]:
        inputs = super()._inputs(envs)
        pull = envs.memory[PULL]
        return inputs | {"xfrc_applied": inputs["xfrc_applied"] + pull if "xfrc_applied" in inputs else pull}

    def simulate(
        self, carry: EnvCarry, last: EnvCarry, action_Ea: Float[Array, "E a"], ctrl_ESu: Float[Array, "E S nu"]
    ) -> tuple[EnvCarry, Bool[Array, " E"]]:
        """As in `Env`; held bases are then put back, at rest."""
        carry, diverged_E = super().simulate(carry, last, action_Ea, ctrl_ESu)
        return self._put_held(carry), diverged_E

    def reset_where(self, carry: EnvCarry, done_E: Bool[Array, " E"], key_E: PRNGKeyArray) -> EnvCarry:
        """As in `Env`; held bases are where they are held."""
        return self._put_held(super().reset_where(carry, done_E, key_E))

    def compute_rewards(self, carry: EnvCarry, ends_E: Ends, diverged_E: Bool[Array, " E"]) -> tuple[EnvCarry, Rewards]:
        """As in `Env`; each term's is remembered."""
        carry, rewards_E = super().compute_rewards(carry, ends_E, diverged_E)
        return with_envs(carry, memory=carry.envs.memory | {REWARDS: rewards_E.by_term}), rewards_E

    # Between two steps: what changes is seen at once, and the policy answers to it in the next step. Nothing advances.

    def place(
        self, carry: EnvCarry, qpos_Eq: Float[Array, "E nq"], qvel_Ev: Float[Array, "E nv"], mask_E: Bool[Array, " E"]
    ) -> tuple[EnvCarry, Obs]:
        """Other positions and velocities in some envs; a base that is held is held there from now on."""
        carry = self._put(carry, qpos_Eq, qvel_Ev, mask_E)
        if HOLD in carry.envs.memory:
            hold: Hold = carry.envs.memory[HOLD]
            adr = self.scene.base_qpos_adr
            assert adr is not None
            moved = Hold(hold.on, jnp.where(mask_E[:, None], qpos_Eq[:, adr : adr + 7], hold.value))
            carry = with_envs(carry, memory=carry.envs.memory | {HOLD: moved})
        return self.renew(carry)

    def redraw_commands(self, carry: EnvCarry, mask_E: Bool[Array, " E"]) -> tuple[EnvCarry, Obs]:
        """Commands drawn anew in some envs, and held no longer there."""
        advanced, key_E = split_keys(carry)
        memory = self._drawn_commands(advanced, key_E)
        for path in list(memory):
            hold: Hold = carry.envs.memory[_COMMAND + path]
            memory[_COMMAND + path] = Hold(jnp.zeros_like(hold.on), hold.value)
        redrawn = replace(advanced.envs, memory=carry.envs.memory | memory)
        return self.renew(EnvCarry(where_env(mask_E, redrawn, carry.envs), carry.shared))

    def renew(self, carry: EnvCarry) -> tuple[EnvCarry, Obs]:
        """The values of commands, and what the policy sees next, after something was changed."""
        carry = self._renewed_commands(carry)
        obs, _ = self.compute_terminal_observations(carry, carry.envs.key)
        return carry, obs

    def _put_held(self, carry: EnvCarry) -> EnvCarry:
        qpos, dof = self.scene.base_qpos_adr, self.scene.base_dof_adr
        if qpos is None or dof is None:
            return carry
        hold: Hold = carry.envs.memory[HOLD]
        physics = carry.envs.physics
        qpos_Eq = physics.qpos.at[:, qpos : qpos + 7].set(hold.value)
        return self._put(carry, qpos_Eq, physics.qvel.at[:, dof : dof + 6].set(0.0), hold.on)

    def _put(
        self, carry: EnvCarry, qpos_Eq: Float[Array, "E nq"], qvel_Ev: Float[Array, "E nv"], mask_E: Bool[Array, " E"]
    ) -> EnvCarry:
        """Some envs in another state, derived fields included."""
        envs = carry.envs
        now = (envs.physics.qpos, envs.physics.qvel)
        qpos_Eq, qvel_Ev = where_env(mask_E, (qpos_Eq, qvel_Ev), now)
        physics = replace(envs.physics, qpos=qpos_Eq, qvel=qvel_Ev)
        ctrl_Eu = envs.physics.fields["ctrl"]
        return with_envs(carry, physics=self.physics.forward(physics, self._inputs(envs), ctrl_Eu, mask_E))

    @in_each_env
    def _drawn_commands(self, env: PerEnv, shared: Shared, key: PRNGKeyArray) -> Memory:
        return self.commands.advance(self.context(env, shared), key, True)

    @in_each_env
    def _renewed_commands(self, env: PerEnv, shared: Shared) -> PerEnv:
        renewed: PerEnv = replace(env, memory=env.memory | self.commands.refresh(self.context(env, shared)))
        return renewed


class _HeldCommands(CommandManager):
    """Commands of which some are held at a value."""

    def _value(self, term: Term, ctx: Context, carry: Any) -> tuple[Float[Array, " n"], Any]:
        value, carry = super()._value(term, ctx, carry)
        hold: Hold | None = ctx.memory.get(_COMMAND + term.path)
        if hold is None:  # the terms are being traced
            return value, carry
        return jnp.where(hold.on, hold.value, value), carry


def hold_path(term: Term) -> str:
    """Where a command's `Hold` is in the memory."""
    return _COMMAND + term.path


def _zeros(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, float_dtype())


def _no_hold(*shape: int) -> Any:
    return Hold(jax.ShapeDtypeStruct((), bool), _zeros(*shape))  # type: ignore[arg-type]
