"""Which engine steps the physics, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco

from ksim.physics.base import Physics
from ksim.physics.batch import BatchPhysics
from ksim.physics.mjx import MjxPhysics
from ksim.system import cpus


@dataclass(frozen=True)
class EngineChoice:
    """An engine and the reason for it, as the first log line says it."""

    engine: str
    reason: str


def choose_engine(engine: str, backend: str, threads: int | None = None) -> EngineChoice:
    """Resolve `auto`.

    Args:
        engine: `auto`, `mjx` or `mujoco`.
        backend: what `jax.default_backend()` says.
        threads: size of the C engine's thread pool; None for one a CPU.
    """
    count = threads or cpus.available()
    pool = f"{count} CPU thread{'s' if count > 1 else ''}"
    if engine == "mujoco":
        return EngineChoice("mujoco", f"C MuJoCo on {pool}, as physics=mujoco asks")
    if engine == "mjx":
        return EngineChoice("mjx", f"MJX on JAX's {backend} backend, as physics=mjx asks")
    if backend == "cpu":
        return EngineChoice(
            "mujoco", f"C MuJoCo on {pool}: JAX sees no accelerator, and MJX is ten times slower on a CPU"
        )
    return EngineChoice("mjx", f"MJX: JAX sees an accelerator ({backend})")


def make_physics(engine: str, model: mujoco.MjModel, fields: Sequence[str], threads: int | None = None) -> Physics:
    """Build a resolved engine, `mjx` or `mujoco`.

    Args:
        engine: which one.
        model: the compiled model.
        fields: the derived mjData fields that terms read.
        threads: size of the C engine's thread pool.
    """
    if engine == "mujoco":
        return BatchPhysics(model, fields, threads)
    if engine == "mjx":
        return MjxPhysics(model, fields)
    raise ValueError(f"physics engine {engine!r} is neither 'mjx' nor 'mujoco'")
