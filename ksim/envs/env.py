"""The functional environment: `reset` and `step` over E envs, callable inside `jit` and `scan`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.config.schema import ManagerBasedRlEnvCfg
from ksim.envs import guard
from ksim.envs.contacts import advance_contacts, init_contacts
from ksim.envs.context import Context, RecordingFields
from ksim.envs.episode import EpisodeSums
from ksim.envs.managers import (
    ActionManager,
    CommandManager,
    CurriculumManager,
    EventManager,
    MetricManager,
    ObservationManager,
    RewardManager,
    TerminationManager,
)
from ksim.envs.managers.call import init_memory
from ksim.envs.managers.events import STATE_WRITES
from ksim.envs.scene import ENCODER_BIAS, Scene, build_scene
from ksim.envs.state import EnvState, Obs, StepOutput
from ksim.envs.symmetry import Symmetry, find_symmetry
from ksim.envs.terms import (
    ActionSettings,
    CommandSettings,
    CurriculumSettings,
    EventSettings,
    MetricSettings,
    RewardSettings,
    Term,
    TerminationSettings,
    resolve,
    resolve_groups,
)
from ksim.envs.tree import STATE_AXES, per_env, replace, split_keys, strong, where_env, where_fresh
from ksim.errors import ConfigError
from ksim.physics import Physics, PhysicsState, initial_state, make_physics
from ksim.physics.base import APPLIED_FORCES, INERTIAL_FIELDS, float_dtype

# Apart from the numbers of what shares the key: observation groups, and the parts of a reset.
_COMMAND_STREAM = _ACTION_STREAM = _SHARED_STREAM = 1 << 30


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
        self.curriculum = CurriculumManager(resolve("task.curriculum", cfg.curriculum, CurriculumSettings))

        def terms(kind: str, settings: type) -> dict[str, Term]:
            path = f"task.{kind}"
            return self.curriculum.drive(path, resolve(path, getattr(cfg, kind) or {}, settings))

        self.events = EventManager(terms("events", EventSettings), self.step_dt)
        self.commands = CommandManager(terms("commands", CommandSettings), self.step_dt)
        action_terms = resolve("task.actions", cfg.actions, ActionSettings)
        control = ActionManager(action_terms, build_scene(cfg), cfg.decimation).control
        self.scene: Scene = build_scene(cfg, control)
        self.actions = ActionManager(action_terms, self.scene, cfg.decimation)
        self.observations = ObservationManager(resolve_groups("task.observations", cfg.observations), self.step_dt)
        reward_scale = self.step_dt if cfg.scale_rewards_by_dt else 1.0
        self.rewards = RewardManager(terms("rewards", RewardSettings), reward_scale)
        self.terminations = TerminationManager(terms("terminations", TerminationSettings))
        if self.terminations.time_outs and self.max_episode_steps == 0:
            raise ConfigError("task.episode_length_s: must be positive where a time-out term ends episodes")
        self.metrics = MetricManager(terms("metrics", MetricSettings))
        groups = [group.terms for group in self.observations.groups.values()]
        managers = (self.events, self.rewards, self.terminations, self.metrics)
        self._terms = [term for terms in (*groups, *(m.terms for m in managers)) for term in terms.values()]
        self.episode = EpisodeSums(self.rewards, self.metrics, self.step_dt)
        self.action_size = self.actions.size
        self.physics: Physics = make_physics(engine, self.scene.model, self._trace_terms(), threads)
        for name, path in self.events.model_fields.items():
            if name not in (*APPLIED_FORCES, ENCODER_BIAS) and not self.physics.has_model_field(name):
                raise ConfigError(f"{path}: mjModel's {name!r} cannot differ between envs on physics={engine}")
        self._implied_fields = self.physics.implied_fields(self.events.model_fields)

    def symmetry(self, groups: Sequence[str] | None = None) -> Symmetry:
        """How the robot mirrors left to right.

        Args:
            groups: the observation groups that matter; None for all.

        Raises:
            ConfigError: the robot has no mirror map, or a term does not say how it mirrors.
        """
        groups = tuple(self.observations.groups) if groups is None else groups
        return find_symmetry(self.scene, self.actions, self.observations, self.obs_sizes, self.commands, groups)

    def reset(
        self,
        key: PRNGKeyArray,
        num_envs: int,
        *,
        random_age: bool = False,
        curriculum: Mapping[str, Any] | None = None,
    ) -> tuple[EnvState, Obs]:
        """Fresh episodes in `num_envs` envs.

        Args:
            key: random key; each env draws from a stream of its own.
            num_envs: E.
            random_age: start episodes at random ages, so that time-outs do not coincide; for training.
            curriculum: how far the curricula have come, as `EnvState.curriculum`; None: they begin.
        """
        everywhere_E = jnp.ones(num_envs, bool)
        blank = self._blank_state(key, num_envs)
        if curriculum is not None:
            blank = replace(blank, curriculum=dict(curriculum))
        state, startup_key_E = split_keys(blank)
        state = self._follow_inertia(self._startup(state, startup_key_E), state, "startup")
        state, reset_key_E = split_keys(state)
        state = self._share_timers(self.reset_where(state, everywhere_E, reset_key_E), None)
        if random_age and self.max_episode_steps:
            state, age_key_E = split_keys(state)
            age_E = jax.vmap(lambda k: jax.random.randint(k, (), 0, self.max_episode_steps))(age_key_E)
            state = replace(state, episode_step=age_E)
        state, obs_key_E = split_keys(state)
        state, obs, _ = self.observe(state, obs_key_E, everywhere_E)
        return state, obs

    def step(self, state: EnvState, action_Ea: Float[Array, "E a"]) -> tuple[EnvState, StepOutput]:
        """One env step in E envs.

        In this order: step and interval events; actions, once; `decimation` substeps of physics; terminations;
        rewards; metrics; the terminal observation; curricula; auto-reset of the envs that are done; commands;
        observations.
        """
        state, key_E = split_keys(state)
        key_E5 = jax.vmap(lambda key: jax.random.split(key, 5))(key_E)
        event_key_E, reset_key_E, terminal_key_E, obs_key_E, action_key_E = (key_E5[:, i] for i in range(5))
        last = state
        state = self._share_timers(self.fire_events(state, event_key_E), last)
        state = self._follow_inertia(state, last, "step", "interval")
        state, ctrl_ESu = self.act(state, action_Ea, action_key_E)
        state, bad_E = self._simulate(state, last, ctrl_ESu)
        state = replace(state, episode_step=state.episode_step + 1, action=action_Ea, prev_action=state.action)
        state, terminated_E, truncated_E, ends_E = self.end(state, bad_E)
        state, reward_E, broken_E = self.judge(state, terminated_E, truncated_E, bad_E)
        terminal_obs = self.observe_end(state, terminal_key_E)
        done_E = terminated_E | truncated_E
        episode_E = self.episode.report(state.episode)
        log = self.episode.log(done_E, terminated_E, ends_E, episode_E)
        log |= {f"not_finite/{path}": jnp.sum(x_E) for path, x_E in broken_E.items()}
        log |= {"nan_guard": jnp.sum(1.0 * bad_E)}
        log |= self.curriculum.log(state.curriculum, done_E)
        curriculum = self.curriculum.update(state.curriculum, done_E, terminated_E, episode_E)
        state = replace(state, curriculum=curriculum)
        state = self.reset_where(state, done_E, reset_key_E)
        state, obs, broken_obs_E = self.observe(state, obs_key_E, done_E)
        log |= {f"not_finite/{path}": jnp.sum(x_E) for path, x_E in broken_obs_E.items()}
        return state, StepOutput(obs, terminal_obs, reward_E, terminated_E, truncated_E, ends_E, episode_E, log)

    def restart(
        self, state: EnvState, obs: Obs, mask_E: Bool[Array, " E"], key: PRNGKeyArray | None = None
    ) -> tuple[EnvState, Obs]:
        """Fresh episodes in some envs between two steps; `step` restarts by itself those that are done.

        The other envs keep every bit of theirs: buffers, timers, commands, random streams and observations. What
        startup events drew stays in all of them.

        Args:
            state: of E envs.
            obs: their present observations.
            mask_E: which envs.
            key: gives those envs new random streams; None: they go on with their own.
        """
        seeded = state if key is None else replace(state, key=jax.random.split(key, len(mask_E)))
        fresh, reset_key_E = split_keys(seeded)
        fresh, obs_key_E = split_keys(fresh)
        everywhere_E = jnp.ones_like(mask_E)
        fresh = self.reset_where(fresh, everywhere_E, reset_key_E)
        fresh, fresh_obs, _ = self.observe(fresh, obs_key_E, everywhere_E)
        return where_fresh(mask_E, fresh, state), where_env(mask_E, fresh_obs, obs)

    # The parts of a step, in their order; `ksim.bench` times them alone. Where the shapes are those of one env,
    # `per_env` maps it over E.

    def _context(self, state: EnvState, **kwargs: Any) -> Context:
        return Context(self.scene, state, step_dt=self.step_dt, max_episode_steps=self.max_episode_steps, **kwargs)

    @per_env()
    def fire_events(self, state: EnvState, key: PRNGKeyArray) -> EnvState:
        """The state with what step events write, and interval events where their time has come."""
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
        return replace(state, timers=timers)

    def _share_timers(self, state: EnvState, last: EnvState | None) -> EnvState:
        """Events that are global fire in all envs at once: their timers are drawn on a stream of the batch's own, so
        that they run on whichever env is reset. `last` is the state before the step; None where all envs begin."""
        shared = [name for name, term in self.events.of_mode("interval").items() if term.settings.is_global]
        if not shared:
            return state
        key, draw_key = jax.random.split(state.shared_key)
        drawn = self.events.draw_timers(draw_key)
        timers = dict(state.timers)
        for name in shared:
            left = jnp.zeros((), jnp.int32) if last is None else last.timers[name][0] - 1
            timers[name] = jnp.broadcast_to(jnp.where(left > 0, left, drawn[name]), timers[name].shape)
        return replace(state, timers=timers, shared_key=key)

    def _write(self, state: EnvState, term: Term, key: PRNGKeyArray, fires: Bool[Array, ""] | bool = True) -> EnvState:
        """The state with an event's writes, where it fires."""
        ctx = self._context(state)
        physics, fields = {}, dict(state.model_fields)
        for name, (value, where) in self.events.writes(term, ctx, key, fires).items():
            if name in STATE_WRITES:
                physics[name] = jnp.where(where, value, getattr(state.physics, name)).astype(float_dtype())
            else:
                fields[name] = jnp.where(where, value, fields[name]).astype(float_dtype())
        return replace(state, physics=replace(state.physics, **physics), model_fields=fields, memory=ctx.memory)

    def _follow_inertia(self, state: EnvState, last: EnvState, *modes: str) -> EnvState:
        """The state with the constants of the model that masses and inertias imply which events of modes changed."""
        if not self.events.inertial_modes.intersection(modes):
            return state
        changed_E = jnp.zeros(len(state.episode_step), bool)
        for name in set(INERTIAL_FIELDS) & set(state.model_fields):
            differs = state.model_fields[name] != last.model_fields[name]
            changed_E |= differs.reshape(len(differs), -1).any(axis=1)
        constants = self.physics.constants(self._inputs(state), changed_E)
        return replace(state, model_fields=state.model_fields | constants)

    def _inputs(self, state: EnvState) -> dict[str, Array]:
        """What the physics takes of the fields per env."""
        return {name: value for name, value in state.model_fields.items() if name != ENCODER_BIAS}

    @per_env((STATE_AXES, 0))
    def act(
        self, state: EnvState, action: Float[Array, " a"], key: PRNGKeyArray
    ) -> tuple[EnvState, Float[Array, "S nu"]]:
        """The controls of every substep."""
        ctx = self._context(state)
        ctrl_Su = self.actions(ctx, action, key)
        return replace(state, memory=ctx.memory), ctrl_Su

    def _simulate(
        self, state: EnvState, last: EnvState, ctrl_ESu: Float[Array, "E S nu"]
    ) -> tuple[EnvState, Bool[Array, " E"]]:
        """The physics of a step, and which envs the NaN guard has put back to where they were before it."""
        inputs = self._inputs(state)
        after = replace(state, physics=self.physics.step(state.physics, inputs, ctrl_ESu))
        if not self.cfg.sim.nan_guard:
            return after, jnp.zeros(len(ctrl_ESu), bool)
        after, bad_E = guard.put_back(after, last)
        given_E = guard.given(state.physics, inputs, ctrl_ESu)
        return replace(after, offenders=guard.keep_first(state.offenders, bad_E, given_E)), bad_E

    @per_env((STATE_AXES, 0, 0, 0))
    def end(self, state: EnvState, bad: Bool[Array, ""]) -> tuple[EnvState, Array, Array, dict[str, Array]]:
        """Terminated, truncated, and each termination's verdict."""
        ctx = self._context(state, diverged=bad)
        advance_contacts(self.scene.contacts, ctx)
        terminated, truncated, ends = self.terminations(ctx)
        return replace(state, memory=ctx.memory), terminated | bad, truncated, ends

    @per_env((STATE_AXES, 0, 0))
    def judge(
        self, state: EnvState, terminated: Array, truncated: Array, bad: Array
    ) -> tuple[EnvState, Float[Array, ""], dict[str, Array]]:
        """The reward, added to the episode's sums as the metrics are, and by path which of both were not finite."""
        ctx = self._context(state, terminated=terminated, truncated=truncated, diverged=bad)
        reward, terms, broken = self.rewards(ctx)
        reward, terms = jax.tree.map(lambda x: jnp.where(bad, 0.0, x), (reward, terms))
        episode, broken_metrics = self.episode.add(ctx, reward, terms)
        return replace(state, episode=episode, memory=ctx.memory), reward, broken | broken_metrics

    @per_env(0)
    def observe_end(self, state: EnvState, key: PRNGKeyArray) -> Any:
        """The terminal observation: with the commands that were followed, and nothing remembered of it."""
        ctx = self._context(state)
        self.commands.refresh(ctx)
        return self.observations(ctx, key)[0]

    def reset_where(self, state: EnvState, done_E: Bool[Array, " E"], key_E: PRNGKeyArray) -> EnvState:
        """The state with a fresh episode in the envs of the mask; the others keep every bit of theirs."""
        last = state
        state = where_fresh(done_E, self._fresh_episode(state, key_E), state)
        state = self._follow_inertia(state, last, "reset")
        # What a reset env's acceleration-stage fields answer to.
        rest_Eu = self._at_rest(state)
        state = replace(state, physics=self.physics.forward(state.physics, self._inputs(state), rest_Eu, done_E))
        memory = self._fresh_memory(state, key_E)
        old = {path: state.memory[path] for path in memory}
        return replace(state, memory=state.memory | where_env(done_E, memory, old))

    @per_env(0)
    def _at_rest(self, state: EnvState) -> Float[Array, " nu"]:
        """Controls of a zero action."""
        return self.actions.at_rest(self._context(state))

    @per_env()
    def _fresh_episode(self, state: EnvState, key: PRNGKeyArray) -> EnvState:
        event_key, timer_key = jax.random.split(key)
        forces = {name: jnp.zeros_like(x) for name, x in state.model_fields.items() if name in APPLIED_FORCES}
        physics = replace(state.physics, qacc_warmstart=jnp.zeros_like(state.physics.qacc_warmstart))
        zero = jnp.zeros_like(state.action)
        state = replace(
            state,
            physics=physics,
            model_fields=state.model_fields | forces,
            episode_step=jnp.zeros_like(state.episode_step),
            action=zero,
            prev_action=zero,
        )
        for i, term in enumerate(self.events.of_mode("reset").values()):
            state = self._write(state, term, jax.random.fold_in(event_key, i))
        timers = self.events.draw_timers(timer_key)
        for name, left in state.timers.items():
            if self.events.terms[name].settings.is_global:
                timers[name] = left
        return replace(state, timers=timers, episode=self.episode.empty())

    @per_env(0)
    def _fresh_memory(self, state: EnvState, key: PRNGKeyArray) -> dict[str, Any]:
        """What terms remember at the start of an episode."""
        ctx = self._context(replace(state, memory={}))
        init_contacts(self.scene.contacts, ctx)
        self.actions.init_memory(ctx, jax.random.fold_in(key, _ACTION_STREAM))
        init_memory(self._terms, ctx)
        return ctx.memory

    @per_env((STATE_AXES, 0, 0))
    def observe(self, state: EnvState, key: PRNGKeyArray, fresh: Bool[Array, ""]) -> tuple[EnvState, Any, Any]:
        """New commands where they are due, then what the policy sees next, and which of it was not finite."""
        ctx = self._context(state)
        self.commands.advance(ctx, jax.random.fold_in(key, _COMMAND_STREAM), fresh)
        obs, broken = self.observations(ctx, key, fresh)
        return replace(state, memory=ctx.memory), obs, broken

    # Before the first step

    def _blank_state(self, key: PRNGKeyArray, num_envs: int) -> EnvState:
        """Envs that no event has touched, in the model's `qpos0`."""
        model, dtype = self.scene.model, float_dtype()
        physics = initial_state(model, self.physics.fields, num_envs)

        def tile(x: Any) -> Array:
            return jnp.broadcast_to(x, (num_envs, *jnp.shape(x)))

        names = dict.fromkeys([*self.events.model_fields, *self._implied_fields])
        fields = {name: tile(jnp.asarray(self.scene.compiled(name), dtype)) for name in names}
        steps_E = jnp.zeros(num_envs, jnp.int32)
        zeros_Ea = jnp.zeros((num_envs, self.action_size), dtype)
        state = EnvState(
            physics=physics,
            model_fields=fields,
            key=jax.random.split(key, num_envs),
            episode_step=steps_E,
            action=zeros_Ea,
            prev_action=zeros_Ea,
            timers={name: steps_E for name in self.events.of_mode("interval")},
            episode=jax.tree.map(tile, self.episode.empty()),
            memory=jax.tree.map(lambda x: tile(jnp.zeros(x.shape, x.dtype)), self._memory_like),
            shared_key=jax.random.fold_in(key, _SHARED_STREAM),
            curriculum=self.curriculum.initial(),
            offenders=None,  # type: ignore[arg-type]
        )
        no_ctrl_ESu = jnp.zeros((num_envs, self.cfg.decimation, model.nu), dtype)
        given_E = guard.given(physics, self._inputs(state), no_ctrl_ESu)
        return replace(state, offenders=guard.no_offenders(given_E))

    @per_env()
    def _startup(self, state: EnvState, key: PRNGKeyArray) -> EnvState:
        for i, term in enumerate(self.events.of_mode("startup").values()):
            state = self._write(state, term, jax.random.fold_in(key, i))
        return state

    def _trace_terms(self) -> tuple[str, ...]:
        """Run every term once on abstract values: errors surface here, and the derived fields that terms read."""
        recorder = RecordingFields(self.scene.model)
        sizes: dict[str, dict[str, int]] = {}

        def run() -> dict[str, Any]:
            one = jax.tree.map(lambda x: x[0], initial_state(self.scene.model, (), 1))
            physics = PhysicsState(one.qpos, one.qvel, one.act, one.qacc_warmstart, recorder)  # type: ignore[arg-type]
            zero, step = jnp.zeros(self.action_size, float_dtype()), jnp.zeros((), jnp.int32)
            key = jax.random.key(0)
            curriculum = self.curriculum.initial()
            state = EnvState(physics, {}, key, step, zero, zero, {}, {}, {}, key, curriculum, None)  # type: ignore[arg-type]
            ctx = self._context(state)
            init_contacts(self.scene.contacts, ctx)
            self.commands.advance(ctx, key, True)
            init_memory(self.events.terms.values(), ctx)
            self.events.declare(ctx, key)
            # From here on as in a step: with a value of its own of each field that events write.
            fields = {name: jnp.asarray(self.scene.compiled(name), float_dtype()) for name in self.events.model_fields}
            ctx = self._context(replace(state, model_fields=fields, memory=ctx.memory))
            self.actions.init_memory(ctx, key)
            self.actions(ctx, zero, key)
            init_memory(self._terms, ctx)
            sizes.update(self.observations.sizes(ctx))
            advance_contacts(self.scene.contacts, ctx)
            self.terminations(ctx)
            self.rewards(ctx)
            self.metrics.accumulate(ctx, {name: zero.sum() for name in self.metrics.terms})
            return strong(ctx.memory)

        self._memory_like = jax.eval_shape(run)
        self.obs_sizes = sizes
        return tuple(recorder.read)


def make_env(cfg: ManagerBasedRlEnvCfg, engine: str, threads: int | None = None) -> Env:
    """The env of a task on a resolved engine, `mjx` or `mujoco`."""
    return Env(cfg, engine, threads)


def num_steps(seconds: float, step_dt: float) -> int:
    """Env steps that cover a time, rounded up, float error guarded: 20 / 0.02 is 1000."""
    return max(math.ceil(seconds / step_dt - 1e-6), 0)
