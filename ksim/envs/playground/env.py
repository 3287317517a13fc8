"""Playground's environments as an `Env`: what a training, an evaluation and an export of ksim's work with."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.foreign import ForeignEnv, Moment
from ksim.envs.playground import library, task
from ksim.envs.playground.engines import changed_fields, make_engine
from ksim.errors import ConfigError
from ksim.physics import PhysicsState


class PlaygroundEnv(ForeignEnv):
    """An environment of Playground's registry. Actions are clipped to [-1, 1].

    Args:
        cfg: the task.
        engine: `mjx` or `mujoco`.
        threads: size of the C engine's thread pool; None for one per CPU.

    Raises:
        ConfigError: its robot's files are nowhere, or the engine cannot do what it needs.

    Attributes:
        stepped: Playground's own environment, on the engine.
    """

    def __init__(self, cfg: task.PlaygroundCfg, engine: str, threads: int | None = None):
        overrides = library.flat(cfg.config_overrides)
        env = library.load(cfg.env, overrides, menagerie=cfg.menagerie)
        self.stepped = make_engine(env, cfg.env, engine, threads)
        self.engine = engine
        self.physics: Any = self.stepped
        self._randomizer = library.domain_randomizer(cfg.env) if cfg.domain_randomization else None
        self.reward_scale = cfg.reward_scale
        like = jax.eval_shape(self.stepped.reset, jax.random.PRNGKey(0)).obs
        self._groups = task.observation_keys(cfg.env, like) if isinstance(like, Mapping) else None
        if any(x.ndim != 1 for x in jax.tree.leaves(like)):
            raise ConfigError(f"task.env: {cfg.env} shows pictures with these settings; networks here read vectors")
        self.about = f"MuJoCo Playground's {cfg.env}"
        self.action_law = "clip(action, -1, 1) goes to the environment's own step"
        model = env.mj_model
        names = [model.actuator(i).name or f"action {i}" for i in range(model.nu)]
        super().__init__(
            cfg,
            model,
            step_dt=float(env.dt),
            max_episode_steps=cfg.max_steps or int(library.default_config(cfg.env).episode_length),
            action_names=names if len(names) == env.action_size else [f"action {i}" for i in range(env.action_size)],
        )

    def first(self, key: PRNGKeyArray, model_fields: Mapping[str, Array]) -> Moment:
        """See `ForeignEnv.first`."""
        return self._moment(self.stepped.reset(jax.random.key_data(key), model_fields))

    def next(self, state: Any, action_a: Float[Array, " a"], model_fields: Mapping[str, Array]) -> Moment:
        """See `ForeignEnv.next`."""
        return self._moment(self.stepped.step(state, jnp.clip(action_a, -1.0, 1.0), model_fields))

    def physics_of(self, state: Any) -> PhysicsState:
        """See `ForeignEnv.physics_of`."""
        data = state.data
        return PhysicsState(data.qpos, data.qvel, data.act, data.qacc_warmstart, {})

    def draw_model_fields(self, key_E: PRNGKeyArray) -> dict[str, Array]:
        """What the registry's domain randomizer draws."""
        if self._randomizer is None:
            return {}
        base = self.stepped.env.mjx_model
        models, _ = self._randomizer(base, jax.vmap(jax.random.key_data)(key_E))
        return changed_fields(models, base)

    def _moment(self, state: Any) -> Moment:
        obs = state.obs
        groups = (
            {group: obs[key] for group, key in self._groups.items()} if self._groups else {"actor": obs, "critic": obs}
        )
        return Moment(state, groups, state.reward, state.done.astype(bool), dict(state.metrics))
