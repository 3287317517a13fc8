"""Python in a process of its own, for what can be set only before JAX starts."""

import os
import subprocess
import sys

_NOT_INHERITED = (
    "PJRT_NPROC",
    "NPROC",
    "JAX_ENABLE_X64",
    "KSIM_CACHE_DIR",
    "JAX_COMPILATION_CACHE_DIR",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)


def python(code: str, *args: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script; the variables that set JAX up are those of `env` alone."""
    clean = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    clean["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=clean | {"JAX_PLATFORMS": "cpu"} | env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def output(code: str, *args: str, **env: str) -> str:
    """What a script prints; it must not fail."""
    result = python(code, *args, **env)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout
