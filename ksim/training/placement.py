"""Where a training runs: on one device, or spread over several, of this process or of several processes."""

import copy
from functools import cached_property, partial
from typing import Any

import equinox as eqx
import jax

from ksim.config import devices
from ksim.config.schema import Config
from ksim.envs.foreign import ForeignEnv
from ksim.errors import ConfigError
from ksim.physics.spread import SpreadPhysics
from ksim.rl.algorithm import is_split
from ksim.system import mesh, processes
from ksim.system.jit import jit
from ksim.training.experiment import Experiment
from ksim.training.state import jit_chunk


def choose(cfg: Config) -> tuple[jax.Device, ...]:
    """The devices of a training: `physics.devices` of those that there are, or as many as its sizes allow.

    Args:
        cfg: the config, its engine resolved.

    Raises:
        ConfigError: there are not so many, or they do not fit its sizes or its engine.
    """
    asked, others = cfg.physics.devices, processes.count()
    if cfg.physics.engine == "mujoco":
        if others > 1:
            raise ConfigError(f"physics.engine: mujoco trains in one process, and here are {others}; {devices.INSTEAD}")
        devices.check(cfg)
        return (jax.local_devices()[0],)
    found = jax.devices()
    if others > 1:
        if asked not in (None, len(found)):
            raise ConfigError(f"physics.devices: must be null or {len(found)}, all of {others} processes, not {asked}")
        devices.check_sizes(cfg, len(found), f"{others} processes with {len(found)} devices")
        return tuple(found)
    if asked is None and cfg.physics.engine != "mjx":
        return tuple(found[:1])  # an engine of the user's own may not be made for more
    if asked is None:
        fitting = [
            n for n in range(1, len(found) + 1) if not any(size % n for size in devices.split_sizes(cfg).values())
        ]
        return tuple(found[: fitting[-1]])
    if asked > len(found):
        raise ConfigError(
            f"physics.devices: must be at most {len(found)}, as JAX sees no more ({jax.default_backend()}), not {asked}"
        )
    devices.check(cfg)
    return tuple(found[:asked])


class Placement:
    """An experiment on its devices.

    Attributes:
        devices: those that train.
        mesh: of these; None where there is only one.
        experiment: as they compute it.
    """

    def __init__(self, experiment: Experiment):
        """Choose the devices.

        Raises:
            ConfigError: as `choose`.
        """
        self.devices = choose(experiment.cfg)
        self.mesh = mesh.make(self.devices) if len(self.devices) > 1 else None
        self.experiment = experiment
        if self.mesh is not None:
            env = copy.copy(experiment.env)
            if not isinstance(env, ForeignEnv):  # whose physics is called by code that is not ksim's
                env.physics = SpreadPhysics(env.physics)
            self.experiment = Experiment(experiment.cfg, experiment.engine, env, experiment.algorithm)

    def __str__(self) -> str:
        """In words, for the log."""
        sizes = {name: size // len(self.devices) for name, size in devices.split_sizes(self.experiment.cfg).items()}
        each = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        of = f" of {processes.count()} processes" if processes.count() > 1 else ""
        return f"{len(self.devices)} devices{of} ({self.devices[0].platform}), on each {each}"

    def init(self, key: jax.Array) -> Any:
        """The algorithm's `init`, compiled."""
        if self.mesh is None:
            return jit(self._init)(key)
        with jax.set_mesh(self.mesh):
            program = jit(self._init, out_shardings=self._shardings).lower(key).compile()
        processes.meet()
        return program(key)

    def put(self, state: Any) -> Any:
        """A state from disk, the same in all processes, or as `init` gave it, where the training wants it."""
        return state if self.mesh is None else jit(_same, name="put", out_shardings=self._shardings)(state)

    def compile_chunk(self, state: Any) -> Any:
        """The train program for a state that is in its place."""
        if self.mesh is None:
            return jit_chunk(self.experiment).lower(state).compile()
        everywhere = mesh.shardings(self.mesh, is_split=False)
        spread = {"in_shardings": (self._shardings,), "out_shardings": (self._shardings, everywhere, everywhere)}
        with jax.set_mesh(self.mesh):
            program = jit_chunk(self.experiment, **spread).lower(state).compile()
        processes.meet()
        return program

    def gather(self, state: Any) -> Any:
        """A whole state on one device of this process; all processes must ask for it."""
        if self.mesh is None:
            return state
        return jax.tree.map(lambda x: x.addressable_data(0), self._gather(state))

    @cached_property
    def _init(self) -> Any:
        return partial(self.experiment.algorithm.init, self.experiment.env)

    @cached_property
    def _gather(self) -> Any:
        assert self.mesh is not None
        return jit(_same, name="gather", out_shardings=mesh.shardings(self.mesh, is_split=False))

    @cached_property
    def _shardings(self) -> Any:
        assert self.mesh is not None
        with jax.set_mesh(self.mesh):
            like = eqx.filter_eval_shape(self._init, jax.random.key(0))
        return mesh.shardings(self.mesh, is_split(like))


def _same(state: Any) -> Any:
    return state
