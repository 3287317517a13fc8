"""JAX as ksim needs it: not hanging on CPUs, deterministic on GPUs, compiling each program once a machine, quiet."""

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import pkgutil
import platform
from pathlib import Path
from types import ModuleType

import jax
from jax._src import xla_bridge

from ksim.errors import KsimError
from ksim.system import cache, callback_cache, cpus
from ksim.system.versions import version_of

# XLA's CPU backend runs batched LAPACK calls on the same thread pool that waits for them: with few threads, MJX's
# Cholesky factorizations can wait for ever (seen with jaxlib 0.10 on 2 cores). So many threads have not.
_SAFE_POOL = 8
_THREAD_VARIABLES = ("PJRT_NPROC", "NPROC")

# Without one of these, XLA's sums on a GPU differ from run to run, and no resume could equal an undisturbed training.
_DETERMINISTIC = ("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops")
_MEMORY_VARIABLES = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
_MEMORY_STATS = ("bytes_limit", "bytes_reserved", "bytes_in_use", "peak_bytes_in_use")


def prepare(*engines: str) -> None:
    """Set up JAX for a run; call it before anything touches a device.

    Args:
        engines: those that the process will use: `auto`, `mjx`, `mujoco` or a dotted path, as configured.

    Raises:
        KsimError: `JAX_PLATFORMS` leaves the CPU out, and JAX has started already.
    """
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of each accelerator that is not there
    stay_within_the_job()
    if set(engines) - {"auto", "mujoco"}:
        avoid_cpu_hang()
    keep_the_cpu()
    compute_deterministically()
    use_compile_cache()


def backend() -> str:
    """What `jax.default_backend()` says; this starts it.

    Raises:
        KsimError: JAX does not start, or not on what `JAX_PLATFORMS` asks for.
    """
    asked = os.environ.get("JAX_PLATFORMS", "")
    try:
        found = jax.default_backend()
    except Exception as error:  # whatever a plugin raises
        reason = " ".join(str(error).split()) or "it finds no such device"
        raise KsimError(f"JAX does not start with JAX_PLATFORMS={asked!r}: {reason}") from error
    if found == "cpu" and asked and "cpu" not in asked.split(","):
        raise KsimError(
            f"JAX finds no device of JAX_PLATFORMS={asked!r}; unset it to run on whatever there is, here the CPU"
        )
    return found


def keep_the_cpu() -> None:
    """Let JAX start its CPU backend beside the platforms of `JAX_PLATFORMS`: C MuJoCo is called through it.

    Raises:
        KsimError: JAX has started already, without it.
    """
    platforms = _platforms()
    if not platforms or "cpu" in platforms:
        return
    if _backend_is_up():
        raise KsimError(
            f"JAX runs without its CPU backend, which ksim needs: set JAX_PLATFORMS={','.join(platforms)},cpu"
        )
    jax.config.update("jax_platforms", ",".join([*platforms, "cpu"]))


def compute_deterministically() -> None:
    """Have XLA compute the same bits in every run on a GPU, where one may be there and the user has not chosen."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _gpu_may_be_there() and not _backend_is_up() and not any(name in flags for name in _DETERMINISTIC):
        os.environ["XLA_FLAGS"] = f"{flags} --{_DETERMINISTIC[0]}=true".strip()


def share_the_gpu() -> None:
    """Take a GPU's memory only as it is needed, unless the user has chosen: for what runs beside a training.

    Of its own, JAX takes three quarters of every GPU at once. Call it before anything touches a device.
    """
    if not any(os.environ.get(name) for name in _MEMORY_VARIABLES):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def device_memory() -> dict[str, dict[str, int]]:
    """By device, what JAX has taken of its memory and what is in use, bytes; empty where it does not count (CPUs)."""
    found = {str(device): device.memory_stats() for device in jax.local_devices()}
    return {
        device: {name: stats[name] for name in _MEMORY_STATS if name in stats}
        for device, stats in found.items()
        if stats
    }


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
    callback_cache.keep_programs()


def compile_cache_dir() -> Path:
    """Where compiled programs are kept: under KSIM_CACHE_DIR, else the user's cache folder; by versions and CPU."""
    versions = [f"{name}={version_of(name)}" for name in ("jax", "jaxlib", "mujoco", "mujoco-mjx")]
    key = " ".join([*versions, platform.machine(), _cpu(), os.environ.get("XLA_FLAGS", "")])
    return cache.folder() / "xla" / hashlib.sha256(key.encode()).hexdigest()[:16]


def import_mjx_quietly() -> ModuleType:
    """`mujoco.mjx`, imported without the lines that it prints about Warp, an optional package."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module("mujoco.mjx")


def _backend_is_up() -> bool:
    return bool(xla_bridge._backends)


def _gpu_may_be_there() -> bool:
    """Whether JAX has a plugin for GPUs and may use it; this starts nothing."""
    platforms = _platforms()
    if platforms and not {"cuda", "gpu", "rocm"} & set(platforms):
        return False
    namespace = importlib.util.find_spec("jax_plugins")
    paths = list(namespace.submodule_search_locations or ()) if namespace else []
    names = [module.name for module in pkgutil.iter_modules(paths)]
    names += [point.name for point in importlib.metadata.entry_points(group="jax_plugins")]
    return any(name.startswith(("xla_cuda", "xla_rocm")) for name in names)


def _platforms() -> list[str]:
    """Those that JAX may start, as `JAX_PLATFORMS` says; empty where it may start any."""
    return list(filter(None, (jax.config.jax_platforms or "").split(",")))  # type: ignore[attr-defined]


def _cpu() -> str:
    """What XLA compiles for: model and instruction sets of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
    except OSError:
        return platform.processor()
