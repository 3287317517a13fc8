"""The functional environment: `reset` and `step` over E envs, callable inside `jit` and `scan`."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.config import ManagerBasedRlEnvCfg
from ksim.envs.context import Context, RecordingFields
from ksim.envs.managers import (
    ActionManager,
    EventManager,
    MetricManager,
    ObservationManager,
    RewardManager,
    TerminationManager,
)
from ksim.envs.managers.events import STATE_WRITES
from ksim.envs.scene import Scene, build_scene
from ksim.envs.state import EnvState, Obs, Offender, StepOutput
from ksim.envs.terms import (
    ActionSettings,
    EventSettings,
    MetricSettings,
    RewardSettings,
    Term,
    TerminationSettings,
    resolve,
    resolve_groups,
)
from ksim.errors import ConfigError
from ksim.mdp import mirror
from ksim.mdp.mirror import SignedPermutation
from ksim.physics import Physics, PhysicsState, initial_state, make_physics
from ksim.physics.base import float_dtype

_BAD_MAGNITUDE = 1e10  # a state this large has diverged, as MuJoCo itself judges (mjMAXVAL)


@dataclass(frozen=True)
class Symmetry:
    """The robot's left-right symmetry: how actions and concatenated observation groups are mirrored."""

    action: SignedPermutation
    obs: dict[str, SignedPermutation]


class Env:
    """A task on an engine. It holds no state: `reset` makes an `EnvState`, `step` takes one and returns the next.

    Attributes:
        cfg: the task.
        scene: the compiled model and its names.
        physics: the engine.
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
            threads: size of the C engine's thread pool; None for one a CPU.

        Raises:
            ConfigError: a term does not resolve, or breaks when it is traced.
        """
        self.cfg = cfg
        self.physics_dt = cfg.sim.timestep
        self.step_dt = self.physics_dt * cfg.decimation
        self.max_episode_steps = num_steps(cfg.episode_length_s, self.step_dt)
        action_terms = resolve("task.actions", cfg.actions, ActionSettings)
        control = ActionManager(action_terms, build_scene(cfg), cfg.decimation).control
        self.scene: Scene = build_scene(cfg, control)
        self.actions = ActionManager(action_terms, self.scene, cfg.decimation)
        self.observations = ObservationManager(resolve_groups("task.observations", cfg.observations))
        reward_scale = self.step_dt if cfg.scale_rewards_by_dt else 1.0
        self.rewards = RewardManager(resolve("task.rewards", cfg.rewards, RewardSettings), reward_scale)
        self.terminations = TerminationManager(resolve("task.terminations", cfg.terminations, TerminationSettings))
        if self.terminations.time_outs and self.max_episode_steps == 0:
            raise ConfigError("task.episode_length_s: must be positive where a time-out term ends episodes")
        self.events = EventManager(resolve("task.events", cfg.events or {}, EventSettings), self.step_dt)
        self.metrics = MetricManager(resolve("task.metrics", cfg.metrics, MetricSettings))
        self.action_size = self.actions.size
        self.physics: Physics = make_physics(engine, self.scene.model, self._trace_terms(), threads)
        for name, path in self.events.model_fields.items():
            if not self.physics.has_model_field(name):
                raise ConfigError(f"{path}: mjModel's {name!r} cannot differ between envs on physics={engine}")

    def symmetry(self, groups: Sequence[str] | None = None) -> Symmetry:
        """How the robot mirrors left to right.

        Args:
            groups: the observation groups that matter; None for all.

        Raises:
            ConfigError: the robot has no mirror map, or a term does not say how it mirrors.
        """
        action = mirror.of_joints(self.scene, self.actions.joints_a)
        if action is None:
            raise ConfigError(
                f"algo.symmetry: robot {self.scene.robot.name!r} or its action terms have no left-right symmetry; "
                "set algo.symmetry=none"
            )
        groups = tuple(self.observations.groups) if groups is None else groups
        obs = {g: self.observations.mirror(g, self.scene, self.obs_sizes[g], action) for g in groups}
        return Symmetry(action, obs)

    def reset(self, key: PRNGKeyArray, num_envs: int, *, random_age: bool = False) -> tuple[EnvState, Obs]:
        """Fresh episodes in `num_envs` envs.

        Args:
            key: random key; each env draws from a stream of its own.
            num_envs: E.
            random_age: start episodes at random ages, so that time-outs do not coincide; for training.
        """
        key_E = jax.random.split(key, num_envs)
        physics = initial_state(self.scene.model, self.physics.fields, num_envs)
        dtype = float_dtype()
        fields = {
            name: jnp.broadcast_to(
                jnp.asarray(getattr(self.scene.model, name), dtype), (num_envs, *getattr(self.scene.model, name).shape)
            )
            for name in self.events.model_fields
        }
        one = jax.tree.map(lambda x: x[0], physics)
        ctrl_u = jnp.zeros(self.scene.model.nu, dtype)
        offender = Offender(jnp.zeros((), bool), one.qpos, one.qvel, one.act, one.qacc_warmstart, ctrl_u)
        zeros = jnp.zeros((num_envs, self.action_size), dtype)
        steps = jnp.zeros(num_envs, jnp.int32)
        timers = {name: steps for name in self.events.of_mode("interval")}
        episode = {name: jnp.broadcast_to(x, num_envs) for name, x in self._empty_episode().items()}
        state = EnvState(physics, fields, key_E, steps, zeros, zeros, timers, episode, offender)
        state, startup_key_E = _split_keys(state)
        state = jax.vmap(self._startup, in_axes=(_STATE_AXES, 0), out_axes=_STATE_AXES)(state, startup_key_E)
        state, reset_key_E = _split_keys(state)
        state = self._share_timers(self._reset_where(state, jnp.ones(num_envs, bool), reset_key_E))
        if random_age and self.max_episode_steps:
            state, age_key_E = _split_keys(state)
            age_E = jax.vmap(lambda k: jax.random.randint(k, (), 0, self.max_episode_steps))(age_key_E)
            state = _replace(state, episode_step=age_E)
        state, obs_key_E = _split_keys(state)
        return state, self._observe(state, obs_key_E)

    def step(self, state: EnvState, action_Ea: Float[Array, "E a"]) -> tuple[EnvState, StepOutput]:
        """One env step in E envs.

        In this order: step and interval events; actions, once; `decimation` substeps of physics; terminations;
        rewards; metrics; the terminal observation; auto-reset of the envs that are done; observations.
        """
        state, key_E = _split_keys(state)
        key_E4 = jax.vmap(lambda key: jax.random.split(key, 4))(key_E)
        event_key_E, reset_key_E, terminal_key_E, obs_key_E = (key_E4[:, i] for i in range(4))
        last = state.physics
        state = self._share_timers(self._vmap(self._fire_events)(state, event_key_E))
        ctrl_ESu = self._vmap(lambda s, a: self.actions(self._context(s), a), axes_out=0)(state, action_Ea)
        before = state.physics
        physics = self.physics.step(state.physics, state.model_fields, ctrl_ESu)
        physics, bad_E = self._guard(physics, last)
        state = _replace(
            state,
            physics=physics,
            episode_step=state.episode_step + 1,
            action=action_Ea,
            prev_action=state.action,
            offender=_first_offender(state.offender, bad_E, before, ctrl_ESu[:, -1]),
        )
        terminated_E, truncated_E, ends_E = self._vmap(lambda s: self.terminations(self._context(s)), axes_out=0)(state)
        terminated_E = terminated_E | bad_E

        def judge(state: EnvState, terminated: Array, truncated: Array, bad: Array) -> tuple[Any, ...]:
            ctx = self._context(state, terminated=terminated, truncated=truncated)
            reward, terms, broken = self.rewards(ctx)
            reward, terms = jax.tree.map(lambda x: jnp.where(bad, 0.0, x), (reward, terms))
            return reward, self._accumulate(ctx, reward, terms), broken

        reward_E, episode_E, broken_E = self._vmap(judge, axes_out=0)(state, terminated_E, truncated_E, bad_E)
        state = _replace(state, episode=episode_E)
        terminal_obs = self._observe(state, terminal_key_E)
        done_E = terminated_E | truncated_E
        episode_E = self._episode(state.episode)
        over_done = {"episodes": 1.0, "terminated": terminated_E} | episode_E
        over_done |= {f"termination/{name}": end_E for name, end_E in ends_E.items()}
        log = {name: jnp.sum(jnp.where(done_E, x, 0.0)) for name, x in over_done.items()}
        log |= {f"not_finite/{name}": jnp.sum(x_E) for name, x_E in broken_E.items()}
        log |= {"nan_guard": jnp.sum(1.0 * bad_E)}
        state = self._reset_where(state, done_E, reset_key_E)
        obs = self._observe(state, obs_key_E)
        output = StepOutput(obs, terminal_obs, reward_E, terminated_E, truncated_E, ends_E, episode_E, log)
        return state, output

    # Parts of a step

    def _context(self, state: EnvState, **kwargs: Any) -> Context:
        return Context(self.scene, state, step_dt=self.step_dt, max_episode_steps=self.max_episode_steps, **kwargs)

    def _vmap(self, function: Any, axes_out: Any = None) -> Any:
        """Map a function of one env's state, and of more arrays per env, over E envs."""
        out = _STATE_AXES if axes_out is None else axes_out

        def mapped(state: EnvState, *args: Array) -> Any:
            return jax.vmap(function, in_axes=(_STATE_AXES, *([0] * len(args))), out_axes=out)(state, *args)

        return mapped

    def _startup(self, state: EnvState, key: PRNGKeyArray) -> EnvState:
        for i, term in enumerate(self.events.of_mode("startup").values()):
            state = self._write(state, term, jax.random.fold_in(key, i))
        return state

    def _fire_events(self, state: EnvState, key: PRNGKeyArray) -> EnvState:
        step_key, interval_key, timer_key = jax.random.split(key, 3)
        for i, term in enumerate(self.events.of_mode("step").values()):
            state = self._write(state, term, jax.random.fold_in(step_key, i))
        drawn = self.events.draw_timers(timer_key)
        timers = {}
        for i, (name, term) in enumerate(self.events.of_mode("interval").items()):
            left = state.timers[name] - 1
            fires = left <= 0
            state = self._write(state, term, jax.random.fold_in(interval_key, i), fires)
            timers[name] = jnp.where(fires, drawn[name], left)
        return _replace(state, timers=timers)

    def _share_timers(self, state: EnvState) -> EnvState:
        """Events that are global fire in all envs at once: the first env's timer is everybody's."""
        timers = dict(state.timers)
        for name, term in self.events.of_mode("interval").items():
            if term.settings.is_global:
                timers[name] = jnp.broadcast_to(timers[name][0], timers[name].shape)
        return _replace(state, timers=timers)

    def _write(self, state: EnvState, term: Term, key: PRNGKeyArray, where: Bool[Array, ""] | bool = True) -> EnvState:
        """The state with an event's writes, where it fires."""
        writes = self.events.writes(term, self._context(state), key)
        physics = {name: value for name, value in writes.items() if name in STATE_WRITES}
        new_physics = _replace(
            state.physics,
            **{n: jnp.where(where, v, getattr(state.physics, n)).astype(float_dtype()) for n, v in physics.items()},
        )
        fields = dict(state.model_fields)
        for name, value in writes.items():
            if name not in STATE_WRITES:
                fields[name] = jnp.where(where, value, fields[name]).astype(float_dtype())
        return _replace(state, physics=new_physics, model_fields=fields)

    def _guard(self, physics: PhysicsState, last: PhysicsState) -> tuple[PhysicsState, Bool[Array, " E"]]:
        """Put envs whose state is not finite or has diverged back to their last good state, and say which."""
        if not self.cfg.sim.nan_guard:
            return physics, jnp.zeros(physics.qpos.shape[0], bool)
        ok_E = jnp.ones(physics.qpos.shape[0], bool)
        for x in (physics.qpos, physics.qvel, physics.act):
            ok_E &= jnp.all(jnp.abs(x) < _BAD_MAGNITUDE, axis=-1)  # false for NaN, too
        return _where_env(ok_E, physics, last), ~ok_E

    def _accumulate(self, ctx: Context, reward: Array, terms: dict[str, Array]) -> dict[str, Array]:
        episode = ctx.state.episode
        metrics = {name.removeprefix("metric/"): x for name, x in episode.items() if name.startswith("metric/")}
        sums = {"return": episode["return"] + reward, "length": episode["length"] + 1.0}
        sums |= {f"reward/{name}": episode[f"reward/{name}"] + x for name, x in terms.items()}
        return sums | {f"metric/{name}": x for name, x in self.metrics.accumulate(ctx, metrics).items()}

    def _episode(self, sums: dict[str, Float[Array, " E"]]) -> dict[str, Float[Array, " E"]]:
        """The running episodes as they are reported: rewards per second, metrics reduced."""
        seconds_E = jnp.maximum(sums["length"], 1.0) * self.step_dt
        metrics = {name.removeprefix("metric/"): x for name, x in sums.items() if name.startswith("metric/")}
        episode = {name: x / seconds_E if name.startswith("reward/") else x for name, x in sums.items()}
        reduced = self.metrics.of_episode(metrics, sums["length"])
        return episode | {f"metric/{name}": x for name, x in reduced.items()}

    def _reset_where(self, state: EnvState, done_E: Bool[Array, " E"], key_E: PRNGKeyArray) -> EnvState:
        """The state with a fresh episode in the envs of the mask; the others keep every bit of theirs."""
        fresh = self._vmap(self._fresh_episode)(state, key_E)
        kept = _replace(state, offender=None)
        state = _replace(
            _where_env(done_E, _replace(fresh, offender=None), kept),
            offender=state.offender,
        )
        # Controls of a zero action: what a reset env's acceleration-stage fields answer to.
        zero_Ea = jnp.zeros_like(state.action)
        ctrl_ESu = self._vmap(lambda s, a: self.actions(self._context(s), a), axes_out=0)(state, zero_Ea)
        return _replace(state, physics=self.physics.forward(state.physics, state.model_fields, ctrl_ESu[:, 0], done_E))

    def _fresh_episode(self, state: EnvState, key: PRNGKeyArray) -> EnvState:
        event_key, timer_key = jax.random.split(key)
        physics = _replace(state.physics, qacc_warmstart=jnp.zeros_like(state.physics.qacc_warmstart))
        zero = jnp.zeros_like(state.action)
        state = _replace(
            state, physics=physics, episode_step=jnp.zeros_like(state.episode_step), action=zero, prev_action=zero
        )
        for i, term in enumerate(self.events.of_mode("reset").values()):
            state = self._write(state, term, jax.random.fold_in(event_key, i))
        timers = self.events.draw_timers(timer_key)
        for name, left in state.timers.items():
            if self.events.terms[name].settings.is_global:  # runs on; 0 before the first reset
                timers[name] = jnp.where(left > 0, left, timers[name])
        return _replace(state, timers=timers, episode=self._empty_episode())

    def _empty_episode(self) -> dict[str, Array]:
        zero = jnp.zeros((), float_dtype())
        episode = {"return": zero, "length": zero} | {f"reward/{name}": zero for name in self.rewards.terms}
        return episode | {f"metric/{n}": jnp.asarray(x, float_dtype()) for n, x in self.metrics.initial().items()}

    def _observe(self, state: EnvState, key_E: PRNGKeyArray) -> Obs:
        return self._vmap(lambda s, k: self.observations(self._context(s), k), axes_out=0)(state, key_E)

    def _trace_terms(self) -> tuple[str, ...]:
        """Run every term once on abstract values: errors surface here, and the derived fields that terms read."""
        recorder = RecordingFields(self.scene.model)
        sizes: dict[str, dict[str, int]] = {}

        def run() -> None:
            one = jax.tree.map(lambda x: x[0], initial_state(self.scene.model, (), 1))
            physics = PhysicsState(one.qpos, one.qvel, one.act, one.qacc_warmstart, recorder)  # type: ignore[arg-type]
            zero, step = jnp.zeros(self.action_size, float_dtype()), jnp.zeros((), jnp.int32)
            key = jax.random.key(0)
            state = EnvState(physics, {}, key, step, zero, zero, {}, {}, None)  # type: ignore[arg-type]
            ctx = self._context(state)
            self.events.declare(ctx, key)
            self.actions(ctx, zero)
            sizes.update(self.observations.sizes(ctx))
            self.terminations(ctx)
            self.rewards(ctx)
            self.metrics.accumulate(ctx, {name: zero.sum() for name in self.metrics.terms})

        jax.eval_shape(run)
        self.obs_sizes = sizes
        return tuple(recorder.read)


_STATE_AXES = EnvState(0, 0, 0, 0, 0, 0, 0, 0, None)  # type: ignore[arg-type]


def make_env(cfg: ManagerBasedRlEnvCfg, engine: str, threads: int | None = None) -> Env:
    """The env of a task on a resolved engine, `mjx` or `mujoco`."""
    return Env(cfg, engine, threads)


def num_steps(seconds: float, step_dt: float) -> int:
    """Env steps that cover a time, rounded up, float error guarded: 20 / 0.02 is 1000."""
    return max(math.ceil(seconds / step_dt - 1e-6), 0)


def _replace(module: Any, **changes: Any) -> Any:
    """A copy of an Equinox module with some fields changed."""
    return dataclasses.replace(module, **changes)


def _split_keys(state: EnvState) -> tuple[EnvState, PRNGKeyArray]:
    """Advance each env's random stream by one; the drawn keys are (E,)."""
    keys_E2 = jax.vmap(jax.random.split)(state.key)
    return _replace(state, key=keys_E2[:, 0]), keys_E2[:, 1]


def _where_env(mask_E: Bool[Array, " E"], new: Any, old: Any) -> Any:
    """Leaf by leaf, `new` in the envs of the mask and `old` in the others."""

    def select(n: Array, o: Array) -> Array:
        return jnp.where(mask_E.reshape(-1, *([1] * (n.ndim - 1))), n, o)

    return jax.tree.map(select, new, old)


def _first_offender(offender: Offender, bad_E: Array, before: PhysicsState, ctrl_Eu: Array) -> Offender:
    env = jnp.argmax(bad_E)
    new = Offender(
        bad_E.any(), before.qpos[env], before.qvel[env], before.act[env], before.qacc_warmstart[env], ctrl_Eu[env]
    )
    return jax.tree.map(lambda n, o: jnp.where(offender.found, o, n), new, offender)
