"""The stateful face of the env, for people who come from Isaac Lab or mjlab."""

import secrets
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from ksim.config.fields import limits_of
from ksim.config.schema import ManagerBasedRlEnvCfg, PhysicsCfg
from ksim.config.words import hint, listed
from ksim.envs.carry import EnvCarry, Obs, StepOutput
from ksim.envs.check import check_task
from ksim.envs.drawing import draw, drawn_terms
from ksim.envs.env import Env, make_env
from ksim.envs.log import summarize
from ksim.errors import ConfigError, KsimError
from ksim.physics import choose_engine
from ksim.physics.base import float_dtype
from ksim.system import jax_setup
from ksim.system.jit import jit
from ksim.system.versions import version_of
from ksim.viz.env_view import camera, visual_model
from ksim.viz.live import LiveRenderer
from ksim.viz.markers import DebugVisualizer

RENDER_MODES = (None, "rgb_array")


class EngineOptions(TypedDict, total=False):
    """How the physics of a `ManagerBasedRlEnv` is computed."""

    engine: str  # `auto` (the default), `mjx` or `mujoco`
    threads: int | None  # of the mujoco engine; None: one per CPU


class ManagerBasedRlEnv:
    """A task in E envs that holds its own state; a thin shell over `ksim.envs.Env`.

    Arrays in are JAX's or NumPy's, arrays out are JAX's. An env that is done is reset in the same step; its terminal
    observation is in the extras. Where the task's horizon is finite, its time limit terminates and does not truncate.

    Attributes:
        is_vector_env: True.
        metadata: `mujoco_version`, `warp_version` (None where Warp is not installed), `render_modes` and (of an
            instance) `render_fps`.
        cfg: the task; its seed is the one that is used.
    """

    is_vector_env = True
    metadata: dict[str, Any] = {  # noqa: RUF012  (an instance has its own, with `render_fps`)
        "mujoco_version": mujoco.__version__,
        "warp_version": version_of("warp-lang"),
        "render_modes": list(RENDER_MODES),
    }
    cfg: ManagerBasedRlEnvCfg

    def __init__(
        self,
        cfg: ManagerBasedRlEnvCfg,
        device: str | jax.Device | None,
        render_mode: str | None = None,
        **kwargs: Unpack[EngineOptions],
    ):
        """Build the env; `reset` starts it.

        Args:
            cfg: the task. A seed of None is drawn and written back here.
            device: where arrays live: `cpu`, `gpu`, `cuda:1`, ..., a JAX device, or None for JAX's first.
            render_mode: `rgb_array` for pictures, or None.
            **kwargs: `engine` and `threads`, as in the config group `physics`.

        Raises:
            ConfigError: a mistake in the task or in an argument.
        """
        for name in kwargs:
            if name not in EngineOptions.__annotations__:
                raise ConfigError(f"{name}: no such option{hint(name, EngineOptions.__annotations__)}")
        if render_mode not in RENDER_MODES:
            raise ConfigError(f"render_mode: there is no {render_mode!r}; there are None and 'rgb_array'")
        engine = kwargs.get("engine", "auto")
        limits_of(PhysicsCfg, "engine").check(engine, "engine")
        jax_setup.prepare(engine)
        jax_setup.backend()
        self.cfg = cfg
        cfg.seed = self.seed(-1 if cfg.seed is None else cfg.seed)
        self._device = _find_device(device)
        self._threads = kwargs.get("threads")
        self._engine = choose_engine(engine, self._device.platform, self._threads).engine
        self._render_mode = render_mode
        self._renderer: LiveRenderer | None = None
        self._state: EnvCarry | None = None
        self._obs: Obs = {}
        self._closed = False
        self.load_managers()
        self.metadata = {**type(self).metadata, "render_fps": 1.0 / self.step_dt}

    # What the env is

    @property
    def num_envs(self) -> int:
        """E."""
        return self.cfg.scene.num_envs

    @property
    def physics_dt(self) -> float:
        """Seconds of a physics step."""
        return self._env.physics_dt

    @property
    def step_dt(self) -> float:
        """Seconds of an env step."""
        return self._env.step_dt

    @property
    def device(self) -> jax.Device:
        """Where the arrays live."""
        return self._device

    @property
    def max_episode_length_s(self) -> float:
        """Seconds of a full episode; 0 where there is no limit."""
        return self.cfg.episode_length_s

    @property
    def max_episode_length(self) -> int:
        """Env steps of a full episode; 0 where there is no limit."""
        return self._env.max_episode_steps

    @property
    def unwrapped(self) -> "ManagerBasedRlEnv":
        """The env itself: nothing is wrapped around it."""
        return self

    def load_managers(self) -> None:
        """Build the managers from `cfg`: events and commands first, then actions and observations, then the rest.

        In this order terms are looked up and checked; what action terms drive is asked first of all, because the
        model needs its actuators. The constructor calls this. Called again, after a change of `cfg`, it makes the env
        anew: `reset` it then.

        Raises:
            ConfigError: a mistake in the task: of several, the first in this order.
        """
        check_task(self.cfg)
        self._env: Env = make_env(self.cfg, self._engine, self._threads)
        self._state = None
        self._end_renderer()  # it has the old model
        num_envs = self.num_envs
        self._jit_reset = jit(lambda key: self._env.reset(key, num_envs), name="reset")
        self._jit_restart = jit(self._env.restart, donate_argnums=0)
        self._jit_step = jit(self._step, name="step", donate_argnums=0)
        self.setup_manager_visualizers()

    # Playing it

    def reset(
        self, *, seed: int | None = None, env_ids: ArrayLike | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Fresh episodes, in some envs or in all; the others go on as if nothing had happened.

        Args:
            seed: starts new random streams in these envs. Given for all envs, everything is as in a new env of this
                seed, and it is written to `cfg`. None: the streams go on; at first they are those of `cfg.seed`.
            env_ids: indices of the envs; None for all. The first reset is of all in any case.
            options: none are known.

        Returns:
            The observations of all envs, by group, each (E, n) or a dict of those; extras with an empty `log`.

        Raises:
            KsimError: the env is closed, or an argument does not fit.
        """
        self._check_open()
        if options:
            raise KsimError(f"reset: there is no option {listed(options)}; env_ids says which envs are reset")
        if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
            raise KsimError(f"reset: seed must be one whole number of 0 or more, for all envs, not {seed}")
        mask_E = self._mask(env_ids)
        if self._state is None or (seed is not None and env_ids is None):
            self.cfg.seed = self.cfg.seed if seed is None else seed
            self._state, self._obs = self._jit_reset(self._key(self.cfg.seed))
        else:
            key = None if seed is None else self._key(seed)
            self._state, self._obs = self._jit_restart(self._state, self._obs, mask_E, key)
        return _own(self._obs), {"log": {}}

    def step(
        self, action: ArrayLike | Array
    ) -> tuple[Obs, Float[Array, " E"], Bool[Array, " E"], Bool[Array, " E"], dict[str, Any]]:
        """One env step in all envs.

        Args:
            action: (E, a), in the units of the action terms.

        Returns:
            The observations by group, of a fresh episode where an env is done; rewards; terminated; truncated, each
            (E,); extras: `terminal_obs`, the true next observations, before any reset; `episode`, numbers of the
            running episodes, this step included, by name, each (E,); `log`, averages over the episodes that ended
            with this step (`ksim.envs.log.summarize`), empty where none did.

        Raises:
            KsimError: the env is closed or was not reset yet, or the action has another shape.
        """
        state = self._running_state()
        shape = (self.num_envs, self._env.action_size)
        if np.shape(action) != shape:
            raise KsimError(f"step: the action must have shape {shape}, not {np.shape(action)}")
        action_Ea = jax.device_put(jnp.asarray(action, float_dtype()), self._device)
        self._state, out, terminated_E, truncated_E = self._jit_step(state, action_Ea)
        self._obs = out.obs
        log = summarize(jax.device_get(out.log), self.step_dt) if out.log["episodes"] else {}
        extras = {"log": log, "terminal_obs": out.terminal_obs, "episode": out.episode}
        return _own(out.obs), out.reward, terminated_E, truncated_E, extras

    def render(self) -> np.ndarray | None:
        """A picture of the first env with what its terms draw: RGB, uint8, (height, width, 3); None without a mode.

        Raises:
            RenderError: this machine cannot draw; the message says what helps.
            KsimError: the env is closed or was not reset yet.
        """
        if self._render_mode is None:
            return None
        state = self._running_state()
        if self._renderer is None:
            model = visual_model(self._env)
            self._renderer = LiveRenderer(model, camera(self._env, model))
        visualizer = DebugVisualizer()
        visualizer.next_frame()
        self.update_visualizers(visualizer)
        return self._renderer.draw(state.envs.physics.qpos[0], visualizer.markers_T[0])

    def close(self) -> None:
        """End the process that draws, and forget the state."""
        self._end_renderer()
        self._state = None
        self._closed = True

    @staticmethod
    def seed(seed: int = -1) -> int:
        """The seed to use: the one that is given, or one that is drawn where it is -1.

        All that is random in an env comes from its seed; no global generator is read or set.

        Raises:
            KsimError: it is negative and not -1.
        """
        if seed < -1:
            raise KsimError(f"seed: must be 0 or more, or -1 for one that is drawn, not {seed}")
        return secrets.randbelow(2**31) if seed == -1 else seed

    def setup_manager_visualizers(self) -> None:
        """Find the terms that draw something; see `ksim.mdp.drawings`."""
        self._drawn_terms = drawn_terms(self._env)

    def update_visualizers(self, visualizer: DebugVisualizer) -> None:
        """Add to the visualizer's present frame what the terms of the first env draw.

        Raises:
            KsimError: the env is closed or was not reset yet.
        """
        visualizer.add(*draw(self._env, self._running_state(), 0, self._drawn_terms))

    def _step(
        self, state: EnvCarry, action_Ea: Float[Array, "E a"]
    ) -> tuple[EnvCarry, StepOutput, Bool[Array, " E"], Bool[Array, " E"]]:
        """The functional step, and its ends as this face reports them."""
        state, out = self._env.step(state, action_Ea)
        if self.cfg.is_finite_horizon:
            return state, out, out.done, jnp.zeros_like(out.truncated)
        return state, out, out.terminated, out.truncated

    def _end_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None

    def _check_open(self) -> None:
        if self._closed:
            raise KsimError("the env is closed")

    def _running_state(self) -> EnvCarry:
        self._check_open()
        if self._state is None:
            raise KsimError("the env has no state yet: call reset() first")
        return self._state

    def _key(self, seed: int | None) -> Array:
        assert seed is not None  # the constructor draws one
        return jax.device_put(jax.random.key(seed), self._device)

    def _mask(self, env_ids: ArrayLike | None) -> np.ndarray:
        """(E,) whether each env is meant."""
        if env_ids is None:
            return np.ones(self.num_envs, bool)
        ids = np.atleast_1d(np.asarray(env_ids))
        if ids.size and not (np.issubdtype(ids.dtype, np.integer) and (ids >= 0).all() and (ids < self.num_envs).all()):
            raise KsimError(f"reset: env_ids must be indices from 0 to {self.num_envs - 1}, not {ids.tolist()}")
        mask_E = np.zeros(self.num_envs, bool)
        mask_E[ids.astype(int)] = True
        return mask_E


def _own(obs: Obs) -> Obs:
    """The same arrays in containers of the caller's own."""
    copy: Obs = jax.tree.map(lambda x: x, obs)
    return copy


def _find_device(device: str | jax.Device | None) -> jax.Device:
    """A JAX device by its name.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(device, jax.Device):
        return device
    if device is None:
        return jax.devices()[0]
    platform, _, index = device.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError):
        known = [f"{d.platform}:{d.id}" for d in jax.devices()]
        raise ConfigError(f"device: JAX has no {device!r}; it has {listed(known)}") from None
