"""The parts of a step and of a reset, for E envs each. `Env.step` and `Env.reset` give their order."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.envs import guard
from ksim.envs.build import EnvParts
from ksim.envs.carry import EnvCarry, Flags, Memory, Obs, PerEnv, Shared
from ksim.envs.managers.call import init_memory
from ksim.envs.managers.events import STATE_WRITES
from ksim.envs.managers.rewards import Rewards
from ksim.envs.managers.terminations import Ends
from ksim.envs.scene import ENCODER_BIAS
from ksim.envs.terms import Term
from ksim.envs.tree import in_each_env, replace, where_env, with_envs, with_shared
from ksim.physics.base import APPLIED_FORCES, INERTIAL_FIELDS, float_dtype

# Apart from the numbers of what shares the key: observation groups, and the parts of a reset.
_COMMAND_STREAM = _ACTION_STREAM = 1 << 30


class Phases(EnvParts):
    """What a step and a reset are made of; `ksim.bench` times the parts alone."""

    # A step

    def fire_events(self, carry: EnvCarry, key_E: PRNGKeyArray) -> EnvCarry:
        """Step events, and interval events where their time has come."""
        fired: EnvCarry = self._fire_in_each(carry, key_E)
        return self._follow_inertia(self._share_timers(fired, carry), carry, "step", "interval")

    @in_each_env
    def compute_controls(
        self, env: PerEnv, shared: Shared, action_a: Float[Array, " a"], key: PRNGKeyArray
    ) -> tuple[PerEnv, Float[Array, "S nu"]]:
        """The controls of every substep."""
        ctrl_Su, memory = self.actions.compute(self.context(env, shared), action_a, key)
        return _remembering(env, memory), ctrl_Su

    def simulate(
        self, carry: EnvCarry, last: EnvCarry, action_Ea: Float[Array, "E a"], ctrl_ESu: Float[Array, "E S nu"]
    ) -> tuple[EnvCarry, Bool[Array, " E"]]:
        """The physics of a step, and which envs diverged.

        The NaN guard puts these back to where they were before the step, those with an action that is not finite
        among them: C MuJoCo would take it for zero.
        """
        envs = carry.envs
        inputs = self._inputs(envs)
        after = replace(envs, physics=self.physics.step(envs.physics, inputs, ctrl_ESu))
        diverged_E = jnp.zeros(len(ctrl_ESu), bool)
        if self.cfg.sim.nan_guard:
            physics = after.physics
            diverged_E = guard.find_diverged(physics.qpos, physics.qvel, physics.act, action_Ea, ctrl_ESu)
            after = guard.put_back(after, last.envs, diverged_E)
            action_Ea = where_env(diverged_E, envs.action, action_Ea)
            given_E = guard.given(envs.physics, inputs, ctrl_ESu)
            carry = with_shared(carry, diverged=guard.keep_first(carry.shared.diverged, diverged_E, given_E))
        after = replace(after, episode_step=envs.episode_step + 1, action=action_Ea, prev_action=envs.action)
        return EnvCarry(after, carry.shared), diverged_E

    @in_each_env
    def compute_terminations(self, env: PerEnv, shared: Shared, diverged: Bool[Array, ""]) -> tuple[PerEnv, Ends]:
        """How episodes end; contact times go on first."""
        ctx = self.context(env, shared, diverged=diverged)
        contacts = self.contacts.advance(ctx)
        ends, memory = self.terminations.compute(ctx.remembering(contacts))
        return _remembering(env, contacts | memory), ends._replace(terminated=ends.terminated | diverged)

    @in_each_env
    def compute_rewards(
        self, env: PerEnv, shared: Shared, ends: Ends, diverged: Bool[Array, ""]
    ) -> tuple[PerEnv, Rewards]:
        """The rewards, added to the episode's sums as the metrics are; what was not finite is that of both."""
        ctx = self.context(env, shared, terminated=ends.terminated, truncated=ends.truncated, diverged=diverged)
        rewards, memory = self.rewards.compute(ctx)
        total, by_term = jax.tree.map(lambda x: jnp.where(diverged, 0.0, x), (rewards.total, rewards.by_term))
        rewards = Rewards(total, by_term, rewards.not_finite)
        episode, not_finite, of_metrics = self.episode.add(ctx, rewards)
        rewards = rewards._replace(not_finite=rewards.not_finite | not_finite)
        return replace(_remembering(env, memory | of_metrics), episode=episode), rewards

    @in_each_env
    def compute_terminal_observations(self, env: PerEnv, shared: Shared, key: PRNGKeyArray) -> tuple[Obs, Flags]:
        """What the policy would see next, with the commands that were followed, and which of it was not finite; nothing
        is remembered of it.
        """
        ctx = self.context(env, shared)
        obs, not_finite, _ = self.observations.compute(ctx.remembering(self.commands.refresh(ctx)), key)
        return obs, not_finite  # type: ignore[return-value]

    def update_curricula(self, carry: EnvCarry, ends_E: Ends, episode_E: dict[str, Float[Array, " E"]]) -> EnvCarry:
        """The curricula after a step of all envs."""
        curriculum = self.curriculum.update(carry.shared.curriculum, ends_E.done, ends_E.terminated, episode_E)
        return with_shared(carry, curriculum=curriculum)

    def reset_where(self, carry: EnvCarry, done_E: Bool[Array, " E"], key_E: PRNGKeyArray) -> EnvCarry:
        """Fresh episodes in the envs of the mask; the others keep every bit of theirs."""
        last = carry
        fresh: EnvCarry = self._fresh_episodes(carry, key_E)
        carry = EnvCarry(where_env(done_E, fresh.envs, carry.envs), carry.shared)
        carry = self._follow_inertia(carry, last, "reset")
        # What a reset env's acceleration-stage fields answer to.
        rest_Eu = self._controls_at_rest(carry)
        envs = carry.envs
        carry = with_envs(carry, physics=self.physics.forward(envs.physics, self._inputs(envs), rest_Eu, done_E))
        memory = self._fresh_memories(carry, key_E)
        old = {path: envs.memory[path] for path in memory}
        return with_envs(carry, memory=envs.memory | where_env(done_E, memory, old))

    @in_each_env
    def compute_observations(
        self, env: PerEnv, shared: Shared, key: PRNGKeyArray, fresh: Bool[Array, ""]
    ) -> tuple[PerEnv, Obs, Flags]:
        """New commands where they are due, then what the policy sees next, and which of it was not finite."""
        ctx = self.context(env, shared)
        commands = self.commands.advance(ctx, jax.random.fold_in(key, _COMMAND_STREAM), fresh)
        obs, not_finite, memory = self.observations.compute(ctx.remembering(commands), key, fresh)
        return _remembering(env, commands | memory), obs, not_finite  # type: ignore[return-value]

    # A training's start

    @in_each_env
    def fire_startup(self, env: PerEnv, shared: Shared, key: PRNGKeyArray) -> PerEnv:
        """Startup events."""
        for i, term in enumerate(self.events.of_mode("startup").values()):
            env = self._fire(env, shared, term, jax.random.fold_in(key, i))
        return env

    # Their parts

    @in_each_env
    def _fire_in_each(self, env: PerEnv, shared: Shared, key: PRNGKeyArray) -> PerEnv:
        step_key, interval_key, timer_key = jax.random.split(key, 3)
        for i, term in enumerate(self.events.of_mode("step").values()):
            env = self._fire(env, shared, term, jax.random.fold_in(step_key, i))
        drawn = self.events.draw_timers(timer_key)
        timers = {}
        for i, (name, term) in enumerate(self.events.of_mode("interval").items()):
            left = env.timers[name] - 1
            fires = left <= 0
            env = self._fire(env, shared, term, jax.random.fold_in(interval_key, i), fires)
            timers[name] = jnp.where(fires, drawn[name], left)
        fired: PerEnv = replace(env, timers=timers)
        return fired

    def _fire(
        self, env: PerEnv, shared: Shared, term: Term, key: PRNGKeyArray, fires: Bool[Array, ""] | bool = True
    ) -> PerEnv:
        """One env with what an event writes, where it fires."""
        writes, memory = self.events.fire(term, self.context(env, shared), key, fires)
        physics, fields = {}, dict(env.model_fields)
        for name, (value, happens) in writes.items():
            if name in STATE_WRITES:
                physics[name] = jnp.where(happens, value, getattr(env.physics, name)).astype(float_dtype())
            else:
                fields[name] = jnp.where(happens, value, fields[name]).astype(float_dtype())
        changed = replace(env, physics=replace(env.physics, **physics), model_fields=fields)
        return _remembering(changed, memory)

    def _share_timers(self, carry: EnvCarry, last: EnvCarry | None) -> EnvCarry:
        """Events that are global fire in all envs at once: their timers are drawn on a stream of the batch's own, so
        that they run on whichever env is reset. `last` is the carry before the step; None where all envs begin.
        """
        shared = [name for name, term in self.events.of_mode("interval").items() if term.settings.is_global]
        if not shared:
            return carry
        key, draw_key = jax.random.split(carry.shared.key)
        drawn = self.events.draw_timers(draw_key)
        timers = dict(carry.envs.timers)
        for name in shared:
            left = jnp.zeros((), jnp.int32) if last is None else last.envs.timers[name][0] - 1
            timers[name] = jnp.broadcast_to(jnp.where(left > 0, left, drawn[name]), timers[name].shape)
        return with_shared(with_envs(carry, timers=timers), key=key)

    def _follow_inertia(self, carry: EnvCarry, last: EnvCarry, *modes: str) -> EnvCarry:
        """The carry with the constants of the model that masses and inertias imply which events of modes changed."""
        if not self.events.inertial_modes.intersection(modes):
            return carry
        fields, old = carry.envs.model_fields, last.envs.model_fields
        changed_E = jnp.zeros(len(carry.envs.episode_step), bool)
        for name in set(INERTIAL_FIELDS) & set(fields):
            differs = fields[name] != old[name]
            changed_E |= differs.reshape(len(differs), -1).any(axis=1)
        constants = self.physics.constants(self._inputs(carry.envs), changed_E)
        return with_envs(carry, model_fields=fields | constants)

    def _inputs(self, envs: PerEnv) -> dict[str, Array]:
        """What the physics takes of the fields per env."""
        return {name: value for name, value in envs.model_fields.items() if name != ENCODER_BIAS}

    @in_each_env
    def _controls_at_rest(self, env: PerEnv, shared: Shared) -> Float[Array, " nu"]:
        """Controls of a zero action."""
        return self.actions.at_rest(self.context(env, shared))

    @in_each_env
    def _fresh_episodes(self, env: PerEnv, shared: Shared, key: PRNGKeyArray) -> PerEnv:
        event_key, timer_key = jax.random.split(key)
        forces = {name: jnp.zeros_like(x) for name, x in env.model_fields.items() if name in APPLIED_FORCES}
        zero_a = jnp.zeros_like(env.action)
        env = replace(
            env,
            physics=replace(env.physics, qacc_warmstart=jnp.zeros_like(env.physics.qacc_warmstart)),
            model_fields=env.model_fields | forces,
            episode_step=jnp.zeros_like(env.episode_step),
            action=zero_a,
            prev_action=zero_a,
        )
        for i, term in enumerate(self.events.of_mode("reset").values()):
            env = self._fire(env, shared, term, jax.random.fold_in(event_key, i))
        timers = self.events.draw_timers(timer_key)
        for name, left in env.timers.items():
            if self.events.terms[name].settings.is_global:
                timers[name] = left
        fresh: PerEnv = replace(env, timers=timers, episode=self.episode.empty())
        return fresh

    @in_each_env
    def _fresh_memories(self, env: PerEnv, shared: Shared, key: PRNGKeyArray) -> Memory:
        """What terms remember at the start of an episode."""
        ctx = self.context(replace(env, memory={}), shared)
        memory = self.contacts.init_memory()
        memory |= self.actions.init_memory(ctx, jax.random.fold_in(key, _ACTION_STREAM))
        return memory | init_memory(self._terms, ctx.remembering(memory))


def _remembering(env: PerEnv, memory: Memory) -> PerEnv:
    """One env with some memories changed."""
    changed: PerEnv = replace(env, memory=env.memory | memory)
    return changed
