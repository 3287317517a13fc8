"""Which engine steps the physics, and why."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mujoco

from ksim.physics.base import Physics
from ksim.physics.batch import BatchPhysics
from ksim.physics.mjx import MjxPhysics
from ksim.system import cpus

# By name, what builds an engine of a model, the derived fields that terms read, and the threads of `physics.threads`.
ENGINES: Mapping[str, Callable[[mujoco.MjModel, Sequence[str], int | None], Physics]] = {
    "mjx": lambda model, fields, threads: MjxPhysics(model, fields),
    "mujoco": BatchPhysics,
}


@dataclass(frozen=True)
class EngineChoice:
    """An engine and the reason for it, as the first log line says it."""

    engine: str
    reason: str


def choose_engine(engine: str, backend: str, threads: int | None = None) -> EngineChoice:
    """Resolve `auto`.

    Args:
        engine: `auto`, `mjx`, `mujoco`, or the dotted path of another one.
        backend: what `jax.default_backend()` says.
        threads: size of the C engine's thread pool; None for one per CPU.
    """
    count = threads or cpus.available()
    pool = f"{count} CPU thread{'s' if count > 1 else ''}"
    if engine == "mujoco":
        return EngineChoice("mujoco", f"C MuJoCo on {pool}, as physics=mujoco asks")
    if engine == "mjx":
        return EngineChoice("mjx", f"MJX on JAX's {backend} backend, as physics=mjx asks")
    if engine != "auto":
        return EngineChoice(engine, f"{engine}, as physics.engine asks")
    if backend == "cpu":
        return EngineChoice(
            "mujoco", f"C MuJoCo on {pool}: JAX sees no accelerator, and MJX is ten times slower on a CPU"
        )
    return EngineChoice("mjx", f"MJX: JAX sees an accelerator ({backend})")


def make_physics(engine: str, model: mujoco.MjModel, fields: Sequence[str], threads: int | None = None) -> Physics:
    """Build a resolved engine.

    Args:
        engine: one of `ENGINES`, or the dotted path of what builds another one of the same arguments.
        model: the compiled model.
        fields: the derived mjData fields that terms read.
        threads: `physics.threads`; the size of the C engine's thread pool.
    """
    module, _, name = engine.rpartition(".")
    if module:
        make: Callable[..., Physics] = getattr(importlib.import_module(module), name)
        return make(model, fields, threads)
    if engine not in ENGINES:
        raise ValueError(f"physics engine {engine!r} is neither 'mjx' nor 'mujoco'")
    return ENGINES[engine](model, fields, threads)
