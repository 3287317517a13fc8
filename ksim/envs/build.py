"""What an env is built of: a task's scene, its managers and the engine."""

from typing import Any

import jax
import jax.numpy as jnp

from ksim.config.schema import ManagerBasedRlEnvCfg
from ksim.envs.carry import Memory, PerEnv, Shared
from ksim.envs.context import Context, RecordingFields
from ksim.envs.episode import EpisodeSums
from ksim.envs.managers import (
    ActionManager,
    CommandManager,
    ContactManager,
    CurriculumManager,
    EventManager,
    MetricManager,
    ObservationManager,
    RewardManager,
    TerminationManager,
)
from ksim.envs.managers.call import init_memory
from ksim.envs.managers.timers import covering_steps
from ksim.envs.scene import ENCODER_BIAS, Scene, build_scene
from ksim.envs.task import TaskTerms
from ksim.envs.tree import replace, strong
from ksim.errors import ConfigError
from ksim.physics import Physics, PhysicsState, initial_state, make_physics
from ksim.physics.base import APPLIED_FORCES, float_dtype


class EnvParts:
    """The scene, managers and engine of a task; `ksim.envs.env.Env` says what each is."""

    def __init__(self, cfg: ManagerBasedRlEnvCfg, engine: str, threads: int | None = None):
        self.cfg = cfg
        self.engine, self.threads = engine, threads
        self.physics_dt = cfg.sim.timestep
        self.step_dt = self.physics_dt * cfg.decimation
        self.max_episode_steps = covering_steps(cfg.episode_length_s, self.step_dt)
        self._make_managers()
        self._memory_like, self.obs_sizes, fields = self._trace_terms()
        self.physics: Physics = make_physics(engine, self.scene.model, fields, threads)
        for name, path in self.events.model_fields.items():
            if name not in (*APPLIED_FORCES, ENCODER_BIAS) and not self.physics.has_model_field(name):
                raise ConfigError(f"{path}: mjModel's {name!r} cannot differ between envs on physics={engine}")
        self._implied_fields = self.physics.implied_fields(self.events.model_fields)

    def _make_managers(self) -> None:
        """The managers, and the scene with the actuators that the action terms ask for."""
        cfg, terms = self.cfg, TaskTerms.of(self.cfg)
        self.scene: Scene = build_scene(cfg)
        self.curriculum = CurriculumManager(terms.curriculum)
        self.events = EventManager(terms.events, self.step_dt)
        self.commands = CommandManager(terms.commands, self.step_dt)
        self.actions = ActionManager(terms.actions, self.scene, cfg.decimation)
        self.scene.set_control(self.actions.control)
        self.contacts = ContactManager(self.scene.contacts)
        self.observations = ObservationManager(terms.observations, self.step_dt)
        self.rewards = RewardManager(terms.rewards, self.step_dt if cfg.scale_rewards_by_dt else 1.0)
        self.terminations = TerminationManager(terms.terminations)
        self.metrics = MetricManager(terms.metrics)
        self.episode = EpisodeSums(self.rewards, self.metrics, self.step_dt)
        self.action_size = self.actions.size
        groups = [group.terms for group in self.observations.groups.values()]
        managers = (self.events, self.rewards, self.terminations, self.metrics)
        self._terms = [term for terms in (*groups, *(m.terms for m in managers)) for term in terms.values()]

    def context(self, env: PerEnv, shared: Shared, **kwargs: Any) -> Context:
        """What terms see of one env; further arguments are those of `Context`."""
        return Context(
            self.scene, env, shared, step_dt=self.step_dt, max_episode_steps=self.max_episode_steps, **kwargs
        )

    def _trace_terms(self) -> tuple[Memory, dict[str, dict[str, int]], tuple[str, ...]]:
        """Run every term once on abstract values: errors surface here.

        Returns:
            What is remembered of one env, as shapes; the length of each observation term, by group and name; the
            derived fields that terms read.
        """
        recorder = RecordingFields(self.scene.model)
        sizes: dict[str, dict[str, int]] = {}

        def run() -> Memory:
            key = jax.random.key(0)
            zero_a = jnp.zeros(self.action_size, float_dtype())
            ctx = self.context(self._blank_env(recorder), Shared(key, self.curriculum.initial(), None))  # type: ignore[arg-type]
            ctx = ctx.remembering(self.contacts.init_memory())
            ctx = ctx.remembering(self.commands.advance(ctx, key, True))
            ctx = ctx.remembering(init_memory(self.events.terms.values(), ctx))
            self.events.declare(ctx, key)
            # From here on as in a step: with a value of its own of each field that events write.
            fields = {name: jnp.asarray(self.scene.compiled(name), float_dtype()) for name in self.events.model_fields}
            env = replace(ctx.env, model_fields=fields, memory=dict(ctx.memory))
            ctx = self.context(env, ctx.shared)
            ctx = ctx.remembering(self.actions.init_memory(ctx, key))
            ctx = ctx.remembering(self.actions.compute(ctx, zero_a, key)[1])
            ctx = ctx.remembering(init_memory(self._terms, ctx))
            found, memory = self.observations.sizes(ctx)
            sizes.update(found)
            ctx = ctx.remembering(memory)
            ctx = ctx.remembering(self.contacts.advance(ctx))
            ctx = ctx.remembering(self.terminations.compute(ctx)[1])
            ctx = ctx.remembering(self.rewards.compute(ctx)[1])
            ctx = ctx.remembering(self.metrics.accumulate(ctx, dict.fromkeys(self.metrics.terms, zero_a.sum()))[2])
            return strong(dict(ctx.memory))

        return jax.eval_shape(run), sizes, tuple(recorder.read)

    def _blank_env(self, fields: RecordingFields) -> PerEnv:
        """One env that no event has touched, of which derived fields are recorded."""
        one = jax.tree.map(lambda x: x[0], initial_state(self.scene.model, (), 1))
        physics = PhysicsState(one.qpos, one.qvel, one.act, one.qacc_warmstart, fields)  # type: ignore[arg-type]
        zero_a, step = jnp.zeros(self.action_size, float_dtype()), jnp.zeros((), jnp.int32)
        return PerEnv(physics, {}, jax.random.key(0), step, zero_a, zero_a, {}, {}, {})
