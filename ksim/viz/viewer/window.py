"""A window: MuJoCo's passive viewer around a simulation."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mujoco
import numpy as np

from ksim.envs.markers import Marker
from ksim.errors import KsimError
from ksim.viz.env_view import camera
from ksim.viz.markers import pack, pack_ghosts
from ksim.viz.render_worker import aim_suns, draw_ghost, draw_markers, place, shadow_clip
from ksim.viz.viewer.keys import Keys, drawing_switches, name_of
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.snapshot import Pose
from ksim.viz.viewer.visualizer import InteractiveVisualizer, OfSimulation

_FONT = mujoco.mjtFontScale.mjFONTSCALE_100.value
_TOP_LEFT, _BOTTOM_LEFT = mujoco.mjtGridPos.mjGRID_TOPLEFT.value, mujoco.mjtGridPos.mjGRID_BOTTOMLEFT.value
_FRAME_S = 1.0 / 30.0  # between two pictures
_LONGEST_CLOSE_S = 10.0
_PASSIVE_VIEWER = "https://mujoco.readthedocs.io/en/stable/python.html#passive-viewer"
_PROBE = """
import sys, glfw
glfw.set_error_callback(lambda code, text: print(text.decode(), file=sys.stderr))
glfw.init() or exit(1)
glfw.window_hint(glfw.VISIBLE, False)
exit(0 if glfw.create_window(64, 64, "", None, None) else 1)
"""


class MujocoInteractiveVisualizer(InteractiveVisualizer):
    """An env in MuJoCo's own window, driven by keys (`ksim.viz.viewer.keys`) and pulled with the mouse.

    A subclass says what `setup_environment` returns; a key of its own is an entry of `keys.table`, added in
    `setup_keys`.
    """

    def setup_keys(self) -> Keys:
        """The keys of the window."""
        return Keys(self.simulation)

    @contextmanager
    def open_screen(self) -> Iterator["Window"]:
        """The window.

        Raises:
            KsimError: no window can be opened here.
        """
        check_display()
        window = Window(self.setup_keys())
        try:
            yield window
        finally:
            window.close()


class _Desk(OfSimulation, MujocoInteractiveVisualizer):
    """The window of a simulation."""


def show(simulation: Simulation) -> None:
    """Show a simulation in a window, until it is closed.

    Raises:
        KsimError: no window can be opened here.
    """
    _Desk(simulation).run()


class Window:
    """MuJoCo's passive viewer, which draws in a thread of its own."""

    def __init__(self, keys: Keys):
        """Open it; `check_display` says before whether it can be."""
        from mujoco import viewer  # it loads GLFW, and a thread starts with each window

        # Without a GPU Mesa draws, without end: in the thread of the window alone, so that the physics keeps a CPU.
        os.environ.setdefault("LP_NUM_THREADS", "0")

        self.keys = keys
        self.simulation = keys.simulation
        self._pressed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._option_flags, self._scene_flags = drawing_switches()
        self._ghost = mujoco.MjData(self.simulation.model)
        self._pulls = False
        self._drawn_at = -np.inf
        self._shown: Pose | None = None
        self._data = mujoco.MjData(self.simulation.model)
        self.simulation.fill(self._data)
        self._viewer = None  # keys come before it is there
        others = set(threading.enumerate())
        self._viewer = viewer.launch_passive(
            self.simulation.model, self._data, key_callback=self._on_key, show_left_ui=False, show_right_ui=False
        )
        self._threads = set(threading.enumerate()) - others
        self._look()

    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        return bool(self._viewer is not None and self._viewer.is_running())

    def close(self) -> None:
        """Close it, and wait until it is gone: a program that ends while MuJoCo still draws crashes."""
        if self._viewer is not None:
            self._viewer.close()
        for thread in self._threads:
            thread.join(timeout=_LONGEST_CLOSE_S)

    def update(self) -> None:
        """Keys that were pressed, then, if it is due, the picture of what is now, and the pull of the mouse."""
        try:
            self._update()
        except mujoco.UnexpectedError:  # what MuJoCo says of a window that was closed in between
            if self.is_open():
                raise

    def _update(self) -> None:
        pressed = [self._pressed.get() for _ in range(self._pressed.qsize())]
        for name in pressed:
            self.keys.press(name)
        viewer, now = self._viewer, time.monotonic()
        if viewer is None or (now - self._drawn_at < _FRAME_S and not pressed):
            return
        self._drawn_at = now
        if self.simulation.pose is not self._shown:
            self._shown = self.simulation.pose
            markers = self.simulation.markers()
            with viewer.lock():
                self.simulation.fill(self._data)
                self._draw(markers)
        aim_suns(self.simulation.model, self._data, viewer.cam)
        viewer.set_texts(self._texts())
        viewer.sync()  # which leaves the mouse's force, and nothing else, in xfrc_applied
        self._put_switches_back(pressed)
        pulls = viewer.perturb.active != 0
        if pulls or self._pulls:
            self.simulation.apply(self._data.xfrc_applied if pulls else np.zeros_like(self._data.xfrc_applied))
        self._pulls = pulls

    def _look(self) -> None:
        """The camera of the task."""
        view = camera(self.simulation.env, self.simulation.model)
        viewer = self._viewer
        assert viewer is not None
        with viewer.lock():
            self.simulation.model.vis.map.shadowclip = shadow_clip(self.simulation.model, view.distance)
            viewer.cam.lookat[:] = view.lookat
            viewer.cam.distance, viewer.cam.azimuth, viewer.cam.elevation = view.distance, view.azimuth, view.elevation
            if view.track is not None:
                viewer.cam.type = mujoco.mjtCamera.mjCAMERA_TRACKING.value
                viewer.cam.trackbodyid = self.simulation.model.body(view.track).id

    def _on_key(self, code: int) -> None:
        """From the thread that draws, which holds the viewer's lock and has flipped its own switch at this key."""
        name = name_of(code)
        viewer = self._viewer
        if name is None or name not in self.keys.table or viewer is None:
            return
        if name in self._option_flags:
            viewer.opt.flags[self._option_flags[name]] ^= 1
        self._pressed.put(name)

    def _put_switches_back(self, pressed: Sequence[str]) -> None:
        """Flip those of the scene once more. They are the viewer's own: a change reaches them with the next sync."""
        assert self._viewer is not None
        for name in pressed:
            if name in self._scene_flags:
                self._viewer.user_scn.flags[self._scene_flags[name]] ^= 1

    def _draw(self, markers: Sequence[Marker]) -> None:
        assert self._viewer is not None
        scene, model = self._viewer.user_scn, self.simulation.model
        scene.ngeom = 0
        for ghost in pack_ghosts([markers], model.nq):
            place(model, self._ghost, ghost[5:])
            draw_ghost(scene, model, self._ghost, ghost[1:5])
        draw_markers(scene, pack([markers]))

    def _texts(self) -> list[tuple[int, int, str, str]]:
        sim = self.simulation
        texts = [(_FONT, _TOP_LEFT, *self.keys.help())] if self.keys.shows_help else [(_FONT, _TOP_LEFT, "K: keys", "")]
        lines = [sim.status, sim.message]
        if sim.error is not None:
            lines.append(_wrapped(sim.error))
        return [*texts, (_FONT, _BOTTOM_LEFT, "\n".join(filter(None, lines)), "")]


def _wrapped(text: str, width: int = 100) -> str:
    lines = [line[i : i + width] for line in text.splitlines() for i in range(0, max(len(line), 1), width)]
    return "\n".join(lines[:12])


def has_display() -> bool:
    """Whether there may be a screen to open a window on."""
    if sys.platform == "darwin":
        return _is_mjpython()
    return sys.platform == "win32" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def check_display() -> None:
    """Whether a window can be opened; without a look, MuJoCo's viewer would wait for it for ever.

    Raises:
        KsimError: why not, and what helps.
    """
    if sys.platform == "darwin" and not _is_mjpython():
        raise KsimError(
            "viewer=window: on macOS MuJoCo's window needs mjpython in place of python: mjpython -m ksim.view ...; "
            f"see {_PASSIVE_VIEWER}"
        )
    if sys.platform == "darwin":
        return
    if not has_display():
        raise KsimError(
            "viewer=window: there is no display (DISPLAY is not set); viewer=web shows it in a browser, and "
            "`xvfb-run -a python -m ksim.view ...` opens the window on a virtual one"
        )
    probe = subprocess.run([sys.executable, "-c", _PROBE], check=False, capture_output=True, text=True)
    if probe.returncode:
        said = probe.stderr.strip().splitlines() or [f"GLFW ends with exit code {probe.returncode}"]
        raise KsimError(f"viewer=window: no window can be opened: {said[-1]}; viewer=web shows it in a browser")


def _is_mjpython() -> bool:
    with contextlib.suppress(ImportError):
        from mujoco import viewer  # it loads GLFW

        return getattr(viewer, "_MJPYTHON", None) is not None
    return False
