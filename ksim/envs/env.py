"""The functional environment: `reset` and `step` over E envs, callable inside `jit` and `scan`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.config.schema import ManagerBasedRlEnvCfg, TaskCfg
from ksim.envs import guard
from ksim.envs.carry import EnvCarry, Flags, Obs, PerEnv, Shared, StepOutput
from ksim.envs.managers.rewards import Rewards
from ksim.envs.managers.terminations import Ends
from ksim.envs.phases import Phases
from ksim.envs.symmetry import Symmetry, find_symmetry
from ksim.envs.tree import split_keys, where_env, with_envs
from ksim.physics import initial_state
from ksim.physics.base import float_dtype

_SHARED_STREAM = 1 << 30  # apart from the numbers of the envs


class Env(Phases):
    """A task on an engine. It holds no state: `reset` makes an `EnvCarry`, `step` takes one and returns the next.

    Attributes:
        cfg: the task.
        engine, threads: what it was built with.
        scene: the compiled model and its names.
        physics: the engine.
        events, commands, actions, contacts, observations, rewards, terminations, metrics, curriculum: the managers.
        action_size: length of one env's action (a).
        obs_sizes: length of every observation term, by group and name.
        physics_dt, step_dt: seconds of one physics step and of one env step.
        max_episode_steps: env steps of a full episode; 0 where there is no limit.
    """

    def __init__(self, cfg: ManagerBasedRlEnvCfg, engine: str, threads: int | None = None):
        """Build the env.

        Args:
            cfg: the task.
            engine: `mjx` or `mujoco`.
            threads: size of the C engine's thread pool; None for one per CPU.

        Raises:
            ConfigError: a term does not resolve, or breaks when it is traced.
        """
        super().__init__(cfg, engine, threads)

    def symmetry(self, groups: Sequence[str] | None = None) -> Symmetry:
        """How the robot mirrors left to right.

        Args:
            groups: the observation groups that matter; None for all.

        Raises:
            ConfigError: the robot has no mirror map, or a term does not say how it mirrors.
        """
        groups = tuple(self.observations.groups) if groups is None else groups
        return find_symmetry(self.scene, self.actions, self.observations, self.obs_sizes, self.commands, groups)

    @property
    def action_names(self) -> tuple[str, ...]:
        """The joint that each element of an action moves."""
        return tuple(self.scene.joint_names[joint] for joint in self.actions.joints_a)

    def is_vector(self, group: str) -> bool:
        """Whether a group of observations is one vector, its terms concatenated."""
        return self.observations.groups[group].settings.concatenate

    def reset(
        self,
        key: PRNGKeyArray,
        num_envs: int,
        *,
        random_age: bool = False,
        curriculum: Mapping[str, Any] | None = None,
    ) -> tuple[EnvCarry, Obs]:
        """Fresh episodes in `num_envs` envs.

        Args:
            key: random key; each env draws from a stream of its own.
            num_envs: E.
            random_age: start episodes at random ages, so that time-outs do not coincide; for training.
            curriculum: how far the curricula have come, as `Shared.curriculum`; None: they begin.
        """
        everywhere_E = jnp.ones(num_envs, bool)
        blank = self._blank_carry(key, num_envs, self.curriculum.initial() if curriculum is None else dict(curriculum))
        carry, startup_key_E = split_keys(blank)
        carry = self._follow_inertia(self.fire_startup(carry, startup_key_E), carry, "startup")
        carry, reset_key_E = split_keys(carry)
        carry = self._share_timers(self.reset_where(carry, everywhere_E, reset_key_E), None)
        if random_age and self.max_episode_steps:
            carry, age_key_E = split_keys(carry)
            age_E = jax.vmap(lambda k: jax.random.randint(k, (), 0, self.max_episode_steps))(age_key_E)
            carry = with_envs(carry, episode_step=age_E)
        carry, obs_key_E = split_keys(carry)
        carry, obs, _ = self.compute_observations(carry, obs_key_E, everywhere_E)
        return carry, obs

    def step(self, carry: EnvCarry, action_Ea: Float[Array, "E a"]) -> tuple[EnvCarry, StepOutput]:
        """One env step in E envs.

        In this order: step and interval events; actions, once; `decimation` substeps of physics; terminations;
        rewards and metrics; the terminal observation; curricula; auto-reset of the envs that are done; commands and
        observations.
        """
        carry, key_E = split_keys(carry)
        key_E5 = jax.vmap(lambda key: jax.random.split(key, 5))(key_E)
        event_key_E, reset_key_E, terminal_key_E, obs_key_E, action_key_E = (key_E5[:, i] for i in range(5))
        last = carry
        carry = self.fire_events(carry, event_key_E)
        carry, ctrl_ESu = self.compute_controls(carry, action_Ea, action_key_E)
        carry, diverged_E = self.simulate(carry, last, action_Ea, ctrl_ESu)
        carry, ends_E = self.compute_terminations(carry, diverged_E)
        carry, rewards_E = self.compute_rewards(carry, ends_E, diverged_E)
        terminal = carry.envs
        terminal_obs, lost_E = self.compute_terminal_observations(carry, terminal_key_E)
        episode_E = self.episode.report(carry.envs.episode)
        log = self._log(carry, ends_E, rewards_E, episode_E, diverged_E)
        carry = self.update_curricula(carry, ends_E, episode_E)
        carry = self.reset_where(carry, ends_E.done, reset_key_E)
        carry, obs, not_finite_E = self.compute_observations(carry, obs_key_E, ends_E.done)
        log |= _count({path: x_E | (lost_E[path] & ends_E.done) for path, x_E in not_finite_E.items()})
        terminated_E, truncated_E, by_term_E = ends_E
        return carry, StepOutput(
            obs, terminal_obs, rewards_E.total, terminated_E, truncated_E, by_term_E, episode_E, log, terminal
        )

    def restart(
        self, carry: EnvCarry, obs: Obs, mask_E: Bool[Array, " E"], key: PRNGKeyArray | None = None
    ) -> tuple[EnvCarry, Obs]:
        """Fresh episodes in some envs between two steps; `step` restarts by itself those that are done.

        The other envs keep every bit of theirs: buffers, timers, commands, random streams and observations. What
        startup events drew stays in all of them.

        Args:
            carry: of E envs.
            obs: their present observations.
            mask_E: which envs.
            key: gives those envs new random streams; None: they go on with their own.
        """
        seeded = carry if key is None else with_envs(carry, key=jax.random.split(key, len(mask_E)))
        fresh, reset_key_E = split_keys(seeded)
        fresh, obs_key_E = split_keys(fresh)
        everywhere_E = jnp.ones_like(mask_E)
        fresh = self.reset_where(fresh, everywhere_E, reset_key_E)
        fresh, fresh_obs, _ = self.compute_observations(fresh, obs_key_E, everywhere_E)
        restarted = EnvCarry(where_env(mask_E, fresh.envs, carry.envs), carry.shared)
        return restarted, where_env(mask_E, fresh_obs, obs)

    def _log(
        self,
        carry: EnvCarry,
        ends_E: Ends,
        rewards_E: Rewards,
        episode_E: dict[str, Float[Array, " E"]],
        diverged_E: Bool[Array, " E"],
    ) -> dict[str, Float[Array, ""]]:
        """What is logged of a step before its resets, as sums."""
        log = self.episode.log(ends_E, episode_E) | _count(rewards_E.not_finite)
        log |= {"nan_guard": jnp.sum(1.0 * diverged_E)}
        return log | self.curriculum.log(carry.shared.curriculum, ends_E.done)

    def _blank_carry(self, key: PRNGKeyArray, num_envs: int, curriculum: dict[str, Any]) -> EnvCarry:
        """Envs that no event has touched, in the model's `qpos0`."""
        model, dtype = self.scene.model, float_dtype()

        def tile(x: Any) -> Array:
            return jnp.broadcast_to(x, (num_envs, *jnp.shape(x)))

        names = dict.fromkeys([*self.events.model_fields, *self._implied_fields])
        steps_E = jnp.zeros(num_envs, jnp.int32)
        zeros_Ea = jnp.zeros((num_envs, self.action_size), dtype)
        envs = PerEnv(
            physics=initial_state(model, self.physics.fields, num_envs),
            model_fields={name: tile(jnp.asarray(self.scene.compiled(name), dtype)) for name in names},
            key=jax.random.split(key, num_envs),
            episode_step=steps_E,
            action=zeros_Ea,
            prev_action=zeros_Ea,
            timers=dict.fromkeys(self.events.of_mode("interval"), steps_E),
            episode=jax.tree.map(tile, self.episode.empty()),
            memory=jax.tree.map(lambda x: tile(jnp.zeros(x.shape, x.dtype)), self._memory_like),
        )
        no_ctrl_ESu = jnp.zeros((num_envs, self.cfg.decimation, model.nu), dtype)
        diverged = guard.none_diverged(guard.given(envs.physics, self._inputs(envs), no_ctrl_ESu))
        return EnvCarry(envs, Shared(jax.random.fold_in(key, _SHARED_STREAM), curriculum, diverged))


def make_env(cfg: ManagerBasedRlEnvCfg | TaskCfg, engine: str, threads: int | None = None) -> Env:
    """The env of a task on a resolved engine, `mjx` or `mujoco`."""
    if isinstance(cfg, TaskCfg):
        env: Env = cfg.make_env(engine, threads)
        return env
    return Env(cfg, engine, threads)


def _count(not_finite_E: Flags) -> dict[str, Float[Array, ""]]:
    return {f"not_finite/{path}": jnp.sum(1.0 * flag_E) for path, flag_E in not_finite_E.items()}
