"""Compiled CPU programs with host callbacks, kept from process to process.

JAX's compile cache leaves such programs out, as their callbacks live in one process. But the machine code knows a
callback only by its number among those that are handed over when the program is loaded: with this process's own, in
the same order, it is the same program. The key is JAX's, a hash of the whole program, the compile options and the
versions.
"""

import contextlib
import functools
import inspect
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import compilation_cache, compiler

log = logging.getLogger(__name__)

_SUFFIX = ".callbacks"
_MARK = "ksim_keeps_programs"
_ARGUMENTS = ["backend", "module", "executable_devices", "options", "host_callbacks"]


def keep_programs() -> None:
    """From here on, keep them in the folder of JAX's compile cache, under the same conditions as others.

    Without effect where this version of JAX compiles in another way than those that are known.
    """
    compile = compiler.backend_compile_and_load
    if hasattr(compile, _MARK) or list(inspect.signature(compile).parameters) != _ARGUMENTS:
        return
    compiler.backend_compile_and_load = _keeping(compile)


def _keeping(compile: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(compile)
    def load_or_compile(
        backend: Any, module: Any, executable_devices: Any, options: Any, host_callbacks: Sequence[Any]
    ) -> Any:
        arguments = (backend, module, executable_devices, options, host_callbacks)
        path = _path(backend, module, executable_devices, options) if host_callbacks else None
        if path is None:
            return compile(*arguments)
        if path.exists():
            try:
                program = backend.deserialize_executable(path.read_bytes(), executable_devices, options, host_callbacks)
                log.debug("read %s", path)
                return program
            except Exception as error:  # of another machine, damaged: whatever it is, compiling helps
                log.debug("%s cannot be read: %s", path, error)
        begin = time.monotonic()
        program = compile(*arguments)
        if time.monotonic() - begin >= jax.config.jax_persistent_cache_min_compile_time_secs:  # type: ignore[attr-defined]
            with contextlib.suppress(Exception):  # a cache that cannot be written ends nothing
                _write(path, backend.serialize_executable(program))
                log.debug("wrote %s", path)
        return program

    setattr(load_or_compile, _MARK, True)
    return load_or_compile


def _path(backend: Any, module: Any, executable_devices: Any, options: Any) -> Path | None:
    """Where a program is kept; None where none are."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if backend.platform != "cpu" or not folder or not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    try:
        key = compilation_cache.get_cache_key(module, np.array(list(executable_devices)), options, backend)
    except Exception as error:  # not a public interface
        log.debug("no key: %s", error)
        return None
    return Path(folder) / f"{key}{_SUFFIX}"


def _write(path: Path, program: bytes) -> None:
    """All of it or nothing, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temp, "wb") as file:
            file.write(program)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
