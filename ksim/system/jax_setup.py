"""JAX as ksim needs it: kept from hanging on CPUs, compiling each program once a machine, quiet."""

import contextlib
import hashlib
import importlib
import importlib.metadata
import io
import logging
import os
import platform
from pathlib import Path
from types import ModuleType

import jax

from ksim.errors import KsimError
from ksim.system import cpus

# XLA's CPU backend runs batched LAPACK calls on the same thread pool that waits for them: with few threads, MJX's
# Cholesky factorizations can wait for ever (seen with jaxlib 0.10 on 2 cores). So many threads have not.
_SAFE_POOL = 8
_THREAD_VARIABLES = ("PJRT_NPROC", "NPROC")


def prepare(*engines: str) -> None:
    """Set up JAX for a run; call it before anything touches a device.

    Args:
        engines: those that the process will use: `auto`, `mjx` or `mujoco`, as configured.
    """
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of each accelerator that is not there
    stay_within_the_job()
    if "mjx" in engines:
        avoid_cpu_hang()
    use_compile_cache()


def stay_within_the_job() -> None:
    """Keep XLA's CPU backend to the CPUs of a cluster job where the cluster binds nobody to them.

    Without effect where a variable sets its threads already, or the backend is up.
    """
    if _xla_threads() > cpus.available() and not _threads_are_set() and not _backend_is_up():
        os.environ["PJRT_NPROC"] = str(cpus.available())


def avoid_cpu_hang() -> None:
    """Give XLA's CPU backend enough threads for MJX; see `_SAFE_POOL`.

    Raises:
        KsimError: the backend runs already, on a CPU and with too few threads.
    """
    threads = _xla_threads()
    if threads >= _SAFE_POOL:
        return
    if not _backend_is_up():
        os.environ["PJRT_NPROC"] = str(_SAFE_POOL)
    elif jax.default_backend() == "cpu":
        raise KsimError(
            f"MJX can hang on JAX's CPU backend with {threads} threads, and the backend has started already; set the "
            f"environment variable PJRT_NPROC={_SAFE_POOL} (or call ksim.system.jax_setup.avoid_cpu_hang()) before "
            "using JAX"
        )


def _threads_are_set() -> bool:
    return any(os.environ.get(name, "").isdecimal() for name in _THREAD_VARIABLES)


def _xla_threads() -> int:
    """Threads of XLA's CPU backend, as XLA counts them: two variables, else the affinity mask."""
    for name in _THREAD_VARIABLES:
        try:
            return max(int(os.environ.get(name, "")), 1)
        except ValueError:
            pass
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_compile_cache() -> None:
    """Keep compiled programs in a folder of ksim's, unless the user chose one or switched the cache off."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get("JAX_ENABLE_COMPILATION_CACHE") == "false":
        return
    jax.config.update("jax_compilation_cache_dir", str(compile_cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def compile_cache_dir() -> Path:
    """Where compiled programs are kept: under KSIM_CACHE_DIR, else the user's cache folder; by versions and CPU."""
    root = os.environ.get("KSIM_CACHE_DIR")
    if not root:
        home = os.environ.get("XDG_CACHE_HOME")
        root = str(Path(home) if home else Path.home() / ".cache") + "/ksim"
    versions = [f"{name}={importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "mujoco", "mujoco-mjx")]
    key = " ".join([*versions, platform.machine(), _cpu(), os.environ.get("XLA_FLAGS", "")])
    return Path(root) / "xla" / hashlib.sha256(key.encode()).hexdigest()[:16]


def import_mjx_quietly() -> ModuleType:
    """`mujoco.mjx`, imported without the lines that it prints about Warp, an optional package."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module("mujoco.mjx")


def _backend_is_up() -> bool:
    from jax._src import xla_bridge

    return bool(xla_bridge._backends)


def _cpu() -> str:
    """What XLA compiles for: model and instruction sets of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
    except OSError:
        return platform.processor()
