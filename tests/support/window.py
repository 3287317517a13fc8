"""A viewer in a process of its own: in a window on a virtual display, with keys and a mouse, or on a page.

The display is Xvfb's, keys and mouse are xdotool's.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.chromium import PATIENCE_S

# Runs the viewer of a module and answers each line of stdin with what it is like; a line may be a pull: body and force.
_CHILD = """
import importlib, json, sys, threading, time
module, name = sys.argv[1:]
viewer = getattr(importlib.import_module(module), name)()
plain = lambda x: x.tolist() if hasattr(x, "tolist") else x
_OF_SIMULATION = ("paused", "time_s", "speed", "measured_speed", "message", "error", "status")

def answer():
    for line in sys.stdin:
        sim, screen = viewer.simulation, viewer.screen
        with sim.lock:
            if line.strip():
                body, *force = line.split()
                sim.pull(body, [float(x) for x in force])
            pose = {n: plain(getattr(sim.pose, n)[0]) for n in ("qpos", "qvel", "ctrl", "pull", "is_suspended")}
            found = pose | {n: getattr(sim, n) for n in _OF_SIMULATION}
            found["commands"] = {n: plain(x[0]) for n, x in sim.pose.commands.items()}
            found["episode_step"] = plain(sim.pose.episode_step[0])
            found["cpu_s"] = time.clock_gettime(time.pthread_getcpuclockid(threading.main_thread().ident))
            found["url"] = getattr(screen, "url", None)
            if hasattr(screen, "keys"):
                found |= {"velocity": screen.keys.moves_velocity, "help": screen.keys.shows_help}
                found["selected"] = screen._viewer.perturb.select
                found["switches"] = [plain(screen._viewer.opt.flags), plain(screen._viewer.user_scn.flags)]
        print(json.dumps(found), flush=True)

open_screen = viewer.open_screen
def opened():
    context = open_screen()
    class Watched:
        def __enter__(self):
            viewer.screen = context.__enter__()
            threading.Thread(target=answer, daemon=True).start()
            return viewer.screen
        def __exit__(self, *error):
            return context.__exit__(*error)
    return Watched()
viewer.open_screen = opened
viewer.run()
"""


@contextmanager
def virtual_display() -> Iterator[str]:
    """The name of a fresh display; skips the test where there is no Xvfb."""
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} (apt-get install xvfb xdotool)")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x400x24", "-nolisten", "tcp"],
        pass_fds=(write,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()
        if not number:
            pytest.skip("Xvfb does not start here")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()


class Person:
    """Somebody in front of a viewer: presses keys, and looks at what the simulation is like."""

    def __init__(self, display: str | None, folder: Path, module: str, name: str):
        self.env = {**os.environ, "DISPLAY": display or "", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
        self.env["TMPDIR"] = str(folder)
        self.child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, module, name],
            env=self.env,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            text=True,
        )
        self._errors = folder / "stderr"

    def pull(self, body: str, force: Sequence[float]) -> None:
        """Pull a body with a force, N."""
        self._ask(" ".join([body, *map(str, force)]))

    def look(self) -> dict[str, Any]:
        """What the simulation is like; the first look waits for the screen."""
        return self._ask("")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(f"{line}\n")
        self.child.stdin.flush()
        while (line := self.child.stdout.readline()) and not line.startswith("{"):
            pass  # a page says where it is
        assert line, self._errors.read_text()[-4000:]
        found: dict[str, Any] = json.loads(line)
        return found

    def focus(self) -> None:
        found = self.do("search", "--sync", "--name", "MuJoCo").split()[-1]
        self.do("windowfocus", "--sync", found)

    def do(self, *words: str) -> str:
        """An xdotool command."""
        result = subprocess.run(["xdotool", *words], env=self.env, capture_output=True, text=True, timeout=PATIENCE_S)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def press(self, key: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Press a key, and wait until what it does is done."""
        self.do("key", key)
        return self.wait(until, key)

    def wait(self, until: Callable[[dict[str, Any]], bool], what: str = "it") -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not until(found := self.look()):
            assert time.monotonic() < deadline, f"{what} has not happened: {found}"
            time.sleep(0.05)
        return found

    def leave(self) -> None:
        """End the viewer, if it has not ended."""
        self.child.kill()
        self.child.wait()
