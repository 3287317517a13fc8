"""`provenance.json`: where a run came from. Nothing here can fail a run or start a JAX backend."""

import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ksim.errors
from ksim.store import files
from ksim.system import foreign
from ksim.system.versions import version_of

log = logging.getLogger(__name__)

_PACKAGES = (
    "ksim", "jax", "jaxlib", "mujoco", "mujoco-mjx", "warp-lang", "equinox", "optax", "numpy", "hydra-core",
    "omegaconf", "hydra-submitit-launcher", "submitit", "wandb", "imageio", "imageio-ffmpeg",
)  # fmt: skip
# Settings that change what is computed or drawn, and nothing that may be a secret.
_ENVIRONMENT = re.compile(
    r"(XLA|JAX|PJRT|MUJOCO|PYOPENGL|NVIDIA_TF32)_\w+|CUDA_VISIBLE_DEVICES|OMP_NUM_THREADS"
    r"|SLURM_(JOB|ARRAY|CPUS|NTASKS|NNODES|RESTART|GPUS|MEM)\w*"
)
_DIFF_LIMIT = 200_000  # characters


def collect(extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Git state, versions, machine and command line, as JSON; `extra` (devices, threads, ...) is added on top."""
    found: dict[str, Any] = {
        "time": files.now(),
        "command": list(sys.orig_argv),
        "cwd": _try(os.getcwd),
        "git": {"ksim": _try(_ksim_git), "cwd": _try(lambda: git_state(Path.cwd()))},
        "python": platform.python_version(),
        "packages": {name: _try(lambda name=name: version_of(name)) for name in _PACKAGES},
        "platform": _try(platform.platform),
        "host": _try(files.host),
        "user": os.environ.get("USER"),
        "cpu": {"model": _try(_cpu_model), "count": os.cpu_count(), "affinity": _try(_affinity)},
        "memory_bytes": _try(lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "environment": {k: v for k, v in sorted(os.environ.items()) if _ENVIRONMENT.fullmatch(k)},
    }
    return files.jsonable({**found, **(extra or {})})


def write(path: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Collects and writes to `path`; what a resume finds there is kept, its own goes into the list `resumes`."""
    new = collect(extra)
    try:
        before = foreign.parse_json(path.read_bytes())
        before.setdefault("resumes", []).append(new)
        new = before
    except (OSError, ValueError, AttributeError):
        pass
    try:
        files.write_atomic(path, files.json_bytes(new))
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, branch, whether anything differs from it, and the difference; None outside a repository."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    root = Path(top.strip())
    status = (_git(root, "status", "--porcelain") or "").splitlines()
    diff = _git(root, "diff", "HEAD", "--no-ext-diff", "--no-color") or ""
    return {
        "root": str(root),
        "commit": (_git(root, "rev-parse", "--verify", "HEAD") or "").strip() or None,
        "branch": (_git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip() or None,
        "dirty": bool(status),
        "untracked": [line[3:] for line in status if line.startswith("??")][:100],
        "diff": diff[:_DIFF_LIMIT],
        "diff_cut": len(diff) > _DIFF_LIMIT,
    }


def _ksim_git() -> dict[str, Any] | None:
    module = Path(ksim.errors.__file__)
    # An installed ksim may lie in a virtual environment inside somebody's repository: that is not its own.
    if _git(module.parent, "ls-files", "--error-unmatch", module.name) is None:
        return None
    return git_state(module.parent)


def _git(folder: Path, *arguments: str) -> str | None:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        check=False,
        timeout=10,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # a look must not block a commit that goes on meanwhile
    )
    return result.stdout.decode(errors="replace") if result.returncode == 0 else None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _affinity() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _try(function: Any) -> Any:
    try:
        return function()
    except Exception as error:  # whatever is missing on this machine, a run goes on
        return {"unknown": repr(error)}
