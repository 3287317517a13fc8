"""MuJoCo Playground's environments as pure functions of one env, on MJX or on C MuJoCo; needs the extra `playground`.

env = playground.make("CartpoleBalance")
obs, state = jax.jit(env.reset)(jax.random.PRNGKey(0))
obs, state, reward, done, info = jax.jit(env.step)(state, action)

The names, arguments and random streams are those of mujorax: the same key gives the same trajectory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.config import fields
from ksim.config.fields import setting
from ksim.envs.playground import library
from ksim.envs.playground.engines import make_engine
from ksim.envs.tree import strong
from ksim.errors import ConfigError, KsimError
from ksim.physics import choose_engine
from ksim.physics.chunks import where_masked
from ksim.system import jax_setup
from ksim.viz.camera import Camera
from ksim.viz.live import LiveRenderer

try:
    from gymnasium import spaces
    from gymnasium.vector.utils import batch_space
except ModuleNotFoundError as error:
    raise ConfigError(f"MuJoCo Playground {library.NEEDS}: {error}") from error

Obs = Array | Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class MjxPlaygroundConfig:
    """What an environment is made with."""

    max_steps: int = setting(1000, above=0)  # time limit of an episode, in env steps
    config_overrides: Mapping[str, Any] = field(default_factory=dict)  # flat, dotted keys for nested settings
    impl: str = setting("jax", choices=("jax", "warp"))  # of MJX
    physics: str = setting("mjx", choices=("auto", "mjx", "mujoco"))  # mujoco: C MuJoCo on the CPU
    threads: int | None = setting(None, above=0)  # of C MuJoCo; None: one per CPU
    menagerie: str | None = None  # folder of MuJoCo Menagerie, for robots that are there; None: wherever it is found


class MjxPlaygroundState(eqx.Module):
    """One env: what `reset` makes and `step` takes.

    Attributes:
        rng: random key.
        step: env steps since the reset.
        done: whether the episode is over.
        pg_state: Playground's own state.
    """

    rng: PRNGKeyArray
    step: Int[Array, ""]
    done: Bool[Array, ""]
    pg_state: Any


StepResult = tuple[Obs, MjxPlaygroundState, Float[Array, ""], Bool[Array, ""], dict[str, Any]]


class MjxPlaygroundEnv:
    """One of Playground's environments; a subclass names it in `_PLAYGROUND_NAME`, `make` any of them.

    `reset` and `step` are pure, of one env, for `jit` and `vmap`. Nothing resets by itself; `make_vec` does.

    Args:
        config: None for the defaults.

    Raises:
        ValueError: the class names no environment.
        ConfigError: there is no such environment or setting, or its robot's files are nowhere.
    """

    _PLAYGROUND_NAME = ""

    def __init__(self, config: MjxPlaygroundConfig | None = None):
        if not self._PLAYGROUND_NAME:
            raise ValueError(f"{type(self).__name__} names no environment: set _PLAYGROUND_NAME, or use make(name)")
        self.config = config or MjxPlaygroundConfig()
        fields.check(self.config)
        jax_setup.prepare(self.config.physics)
        engine = choose_engine(self.config.physics, jax_setup.backend(), self.config.threads).engine
        name = self._PLAYGROUND_NAME
        overrides = library.flat(self.config.config_overrides)
        self._env = library.load(name, overrides, impl=self.config.impl, menagerie=self.config.menagerie)
        self._engine = make_engine(self._env, name, engine, self.config.threads)
        self._renderer: LiveRenderer | None = None

    @property
    def unwrapped(self) -> Any:
        """Playground's own environment."""
        return self._env

    @property
    def mj_model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self._env.mj_model

    @property
    def xml_path(self) -> Path:
        """The environment's MJCF."""
        return Path(str(self._env.xml_path))

    @cached_property
    def observation_space(self) -> spaces.Space:
        """A `Box` without bounds, or a `Dict` of them; float32."""
        obs = jax.eval_shape(self._engine.reset, jax.random.PRNGKey(0)).obs
        if isinstance(obs, Mapping):
            return spaces.Dict({name: _box(like.shape) for name, like in obs.items()})
        return _box(obs.shape)

    @cached_property
    def action_space(self) -> spaces.Box:
        """From -1 to 1, float32."""
        return spaces.Box(-1.0, 1.0, (self._env.action_size,), np.float32)

    def reset(self, rng: PRNGKeyArray) -> tuple[Obs, MjxPlaygroundState]:
        """A fresh episode: the observation and the state, at step 0."""
        rng, init_rng = jax.random.split(rng)
        pg_state = strong(self._engine.reset(init_rng))
        return pg_state.obs, MjxPlaygroundState(rng, jnp.int32(0), jnp.bool_(False), pg_state)

    def step(self, state: MjxPlaygroundState, action: Float[Array, " a"]) -> StepResult:
        """One env step.

        Returns:
            The observation; the next state; the reward; whether the episode is over, by its own end or the time limit;
            info: `terminated` and `truncated`, of which the episode's end is one or both, `terminal_obs` (the
            observation, whatever a wrapper returns in its place), `current_step`, `metrics`, and Playground's own.
        """
        rng, _ = jax.random.split(state.rng)
        new_pg = strong(self._engine.step(state.pg_state, action))
        step = state.step + 1
        done = self._done(state, new_pg, step)
        next_state = MjxPlaygroundState(rng, step, done, new_pg)
        info = self._info(state, new_pg, step)
        return new_pg.obs, next_state, self._reward(state, action, new_pg), done, info

    def render(self, state: MjxPlaygroundState, height: int = 240, width: int = 320) -> np.ndarray:
        """A picture of one env: RGB, uint8, (height, width, 3), by the model's first camera where it has one.

        Raises:
            RenderError: this machine cannot draw; the message says what helps.
            KsimError: the state is of several envs.
        """
        qpos = np.asarray(state.pg_state.data.qpos)
        if qpos.ndim != 1:
            raise KsimError("render: give the state of one env, such as jax.tree.map(lambda x: x[0], state)")
        if self._renderer is None or (self._renderer.camera.height, self._renderer.camera.width) != (height, width):
            self.close()
            camera = Camera.of_model(self.mj_model, width=width, height=height)
            self._renderer = LiveRenderer(self.mj_model, camera)
        return self._renderer.draw(qpos)

    def close(self) -> None:
        """End the process that draws, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None

    # What a subclass may change

    def _reward(self, state: MjxPlaygroundState, action: Array, new_pg: Any) -> Float[Array, ""]:
        """The reward of a step from `state` to Playground's `new_pg`."""
        reward: Array = new_pg.reward
        return reward

    def _done(self, state: MjxPlaygroundState, new_pg: Any, new_step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the episode is over."""
        return new_pg.done.astype(bool) | (new_step >= self.config.max_steps)

    def _info(self, state: MjxPlaygroundState, new_pg: Any, new_step: Int[Array, ""]) -> dict[str, Any]:
        """What `step` tells besides."""
        return {
            "current_step": new_step,
            "metrics": new_pg.metrics,
            **new_pg.info,
            "terminated": new_pg.done.astype(bool),
            "truncated": new_step >= self.config.max_steps,
            "terminal_obs": new_pg.obs,
        }


class VecPlaygroundEnv:
    """E envs of an environment, each reset to a fresh random state in the step that ends its episode.

    Args:
        env: the environment.
        n_envs: E.

    Raises:
        ConfigError: E is no number above 0.
    """

    def __init__(self, env: MjxPlaygroundEnv, n_envs: int):
        if n_envs < 1:
            raise ConfigError(f"n_envs: must be above 0, not {n_envs}")
        self.env = env
        self.num_envs = n_envs
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, n_envs)
        self.action_space = batch_space(env.action_space, n_envs)

    def reset(self, rng: PRNGKeyArray) -> tuple[Obs, MjxPlaygroundState]:
        """Fresh episodes; every array has a leading axis E."""
        return jax.vmap(self.env.reset)(jax.random.split(rng, self.num_envs))

    def step(self, state: MjxPlaygroundState, action_Ea: Float[Array, "E a"]) -> StepResult:
        """One env step in all envs, as `MjxPlaygroundEnv.step`.

        Envs whose episode ends are reset: theirs are a fresh episode's observation and state, `info` that of the last.
        Resets are computed a few envs at a time, for those that need one: the others cost nothing.
        """
        obs, state, reward_E, done_E, info = jax.vmap(self.env.step)(state, action_Ea)
        rng_E = jax.vmap(jax.random.split)(state.rng)[:, 0]
        fresh_obs, fresh = where_masked(self.env.reset, (rng_E,), done_E, (obs, state))
        return fresh_obs, fresh, reward_E, done_E, info


def make(name: str, config: MjxPlaygroundConfig | None = None, **options: Any) -> MjxPlaygroundEnv:
    """Any environment of Playground's registry.

    Args:
        name: such as "CartpoleBalance".
        config: None for one of `options`.
        **options: fields of `MjxPlaygroundConfig`.

    Raises:
        ConfigError: as `MjxPlaygroundEnv`; an unknown name tells the nearest.
    """
    library.check_name(name, "name")
    cls = type(name, (MjxPlaygroundEnv,), {"_PLAYGROUND_NAME": name, "__doc__": MjxPlaygroundEnv.__doc__})
    found: MjxPlaygroundEnv = cls(config or MjxPlaygroundConfig(**options))
    return found


def make_vec(name: str, n_envs: int, config: MjxPlaygroundConfig | None = None, **options: Any) -> VecPlaygroundEnv:
    """The same, E of them at once; the arguments are those of `make`, and `n_envs` is E."""
    return VecPlaygroundEnv(make(name, config, **options), n_envs)


def _box(shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)
