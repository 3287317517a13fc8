"""Finds an OpenGL backend that draws without a display, and runs the render worker with it.

MuJoCo reads MUJOCO_GL once, when it is first imported, so one process cannot try a second backend. Each attempt,
and each rendering, is therefore a child process; the backend that worked is remembered for the process.
"""

import contextlib
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ksim.config.words import one_line
from ksim.errors import KsimError

log = logging.getLogger(__name__)

WORKER = Path(__file__).resolve().with_name("render_worker.py")
PROBE_TIMEOUT_S = 90.0
_SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")
_POLL_S = 0.02


class RenderError(KsimError):
    """Nothing could be drawn. A training goes on without its video; an eval says so."""


class WorkerError(RenderError):
    """The render worker failed; the message is its reason, in one line."""


@dataclass(frozen=True)
class BackendReport:
    """The backend that works: its MUJOCO_GL value, the device's own name, and what failed before it, with why."""

    name: str
    device: str
    failures: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.device})"


_lock = threading.Lock()
# Keyed by what the answer depends on; a failure is kept too, so that a broken driver costs its timeout once.
_found: dict[tuple[str, str, str], BackendReport | str] = {}


def find_backend() -> BackendReport:
    """Returns the first backend that draws: EGL, then OSMesa, then a display; a MUJOCO_GL that is set is the only one.

    The first call takes about a second and starts child processes; later calls return the cached answer.

    Raises:
        RenderError: no backend works; the message says what was tried and which packages help.
    """
    key = _environment()
    with _lock:
        if key not in _found:
            _found[key] = _search(*key)
        answer = _found[key]
    if isinstance(answer, str):
        raise RenderError(answer)
    return answer


def forget_backends() -> None:
    """Forgets what was found, for a machine that got new packages in the meantime."""
    with _lock:
        _found.clear()


def _environment() -> tuple[str, str, str]:
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    return wanted, os.environ.get("DISPLAY", ""), os.environ.get("WAYLAND_DISPLAY", "")


def _candidates(wanted: str, display: str, wayland: str) -> list[str]:
    if wanted:
        return [wanted]
    match platform.system():
        case "Darwin":
            return ["cgl", "glfw"]
        case "Windows":
            return ["glfw"]
        case _:
            return ["egl", "osmesa"] + (["glfw"] if display or wayland else [])


def _search(wanted: str, display: str, wayland: str) -> BackendReport | str:
    if wanted in _SWITCHED_OFF:
        return f"Rendering is switched off: the environment variable MUJOCO_GL is '{wanted}'. Unset it to get videos."
    failures: list[tuple[str, str]] = []
    for name in _candidates(wanted, display, wayland):
        try:
            result = run_worker({"kind": "probe"}, name, stall_timeout_s=PROBE_TIMEOUT_S)
        except WorkerError as err:
            # PyOpenGL's way to say that the library is missing.
            missing = "'NoneType' object has no attribute" in str(err)
            failures.append((name, "its OpenGL library is not installed" if missing else str(err)))
        else:
            report = BackendReport(name, result["device"], tuple(failures))
            log.debug("rendering with %s", report)
            return report
    return _explain(wanted, display, wayland, failures)


def _explain(wanted: str, display: str, wayland: str, failures: list[tuple[str, str]]) -> str:
    lines = ["Cannot render: no OpenGL backend works here. Tried:"]
    if wanted:
        lines[0] = f"Cannot render: MUJOCO_GL={wanted} is set, so only this backend was tried, and it failed:"
    lines += [f"  {name}: {reason}" for name, reason in failures]
    if platform.system() == "Linux":
        if not wanted and not (display or wayland):
            lines.append("  glfw: not tried, there is no display (DISPLAY and WAYLAND_DISPLAY are not set)")
        lines += [
            'This is what MuJoCo calls "an OpenGL platform library has not been loaded into this process".',
            "On Debian and Ubuntu any one of these helps:",
            "  apt-get install libegl1 libgl1-mesa-dri   EGL, software rendering included (MUJOCO_GL=egl)",
            "  apt-get install libosmesa6                OSMesa, software rendering (MUJOCO_GL=osmesa)",
            "  apt-get install xvfb                      a virtual display: put `xvfb-run -a` before the command",
        ]
    if wanted:
        lines.append("Unset MUJOCO_GL to let ksim try them all.")
    return "\n".join(lines)


def run_worker(
    job: dict[str, Any], backend: str, *, folder: Path | None = None, stall_timeout_s: float
) -> dict[str, Any]:
    """Runs one job of `render_worker.py` with MUJOCO_GL set to `backend` and returns its result.

    `folder` holds the job's files (a fresh temporary one by default). The worker is killed, with the
    encoder that it started, when it shows no sign of life (a drawn frame) for `stall_timeout_s` seconds.

    Raises:
        WorkerError: it failed, crashed or stalled.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksim_render_")))
        stdout = folder / "stdout"
        with stdout.open("wb") as out:
            process = start_worker(job, backend, folder, stall_timeout_s, stdin=subprocess.DEVNULL, stdout=out)
        try:
            finished = _wait(process, stdout, stall_timeout_s)
        finally:  # a Ctrl-C here leaves no process behind either
            if process.poll() is None:
                kill_worker(process)
        if not finished:
            raise WorkerError(f"no answer for {stall_timeout_s:g} s; the driver seems to hang")
        return _result(folder, process.returncode)


def start_worker(
    job: dict[str, Any], backend: str, folder: Path, stall_timeout_s: float, *, stdin: Any, stdout: Any
) -> subprocess.Popen[bytes]:
    """Starts `render_worker.py` on a job whose files are in `folder`, with MUJOCO_GL set to `backend`."""
    (folder / "job.json").write_text(json.dumps({**job, "stall_timeout_s": stall_timeout_s}))
    env = {**os.environ, "MUJOCO_GL": backend}
    # A process that imported mujoco with another backend has left its choice in this variable, and
    # mujoco refuses a contradiction.
    env.pop("PYOPENGL_PLATFORM", None)
    if "PYTHONPATH" in env:  # the worker runs elsewhere, so that MuJoCo's MUJOCO_LOG.TXT lands nowhere
        env["PYTHONPATH"] = os.pathsep.join(os.path.abspath(p) for p in env["PYTHONPATH"].split(os.pathsep))
    with (folder / "stderr").open("wb") as err:
        # A session of its own, so that a kill reaches the encoder too.
        return subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(folder)],
            env=env,
            cwd=folder,
            stdin=stdin,
            stdout=stdout,
            stderr=err,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], stdout: Path, stall_timeout_s: float) -> bool:
    seen, since = -1, time.monotonic()
    while process.poll() is None:
        size = stdout.stat().st_size
        if size != seen:
            seen, since = size, time.monotonic()
        if time.monotonic() - since > stall_timeout_s:
            return False
        time.sleep(_POLL_S)
    return True


def kill_worker(process: subprocess.Popen[bytes]) -> None:
    """Ends a worker at once, with the encoder that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # a process stuck in the kernel does not even die
        process.wait(timeout=5)


def _result(folder: Path, returncode: int) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        if returncode < 0:
            raise WorkerError(f"the process died of {signal.Signals(-returncode).name}") from None
        lines = (folder / "stderr").read_text(errors="replace").strip().splitlines() or ["no message"]
        raise WorkerError(f"exit code {returncode}: {short(lines[-1])}") from None
    if not result["ok"]:
        raise WorkerError(short(result["error"]))
    return result


def short(reason: str) -> str:
    """A reason in one line of no more than 200 characters."""
    line = one_line(reason)
    return line if len(line) <= 200 else line[:197] + "..."
