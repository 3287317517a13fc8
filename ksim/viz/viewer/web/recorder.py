"""A film of what the page shows, drawn afterwards, headless."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np

from ksim.envs.markers import Marker
from ksim.errors import KsimError
from ksim.store import files
from ksim.viz.camera import Camera
from ksim.viz.render import render_video

_FPS = 30.0
_LONGEST_S = 120.0


@dataclass
class _Take:
    camera: Camera
    time_T: list[float] = field(default_factory=list)
    qpos_Tq: list[np.ndarray] = field(default_factory=list)
    markers_T: list[Sequence[Marker]] = field(default_factory=list)


class Recorder:
    """Remembers what was seen from `start` to `stop`, and writes it as an mp4 that plays in simulated time."""

    def __init__(self, model: mujoco.MjModel, folder: Path):
        """Write into a folder, which is made when it is needed."""
        self._model, self._folder = model, folder
        self._take: _Take | None = None
        self._writer: threading.Thread | None = None

    @property
    def is_on(self) -> bool:
        """Whether it records."""
        return self._take is not None

    @property
    def is_full(self) -> bool:
        """Whether it has recorded for as long as it may."""
        return self._take is not None and len(self._take.time_T) > 0 and self.length_s >= _LONGEST_S

    @property
    def length_s(self) -> float:
        """Seconds recorded until now."""
        times = self._take.time_T if self._take is not None else []
        return times[-1] - times[0] if times else 0.0

    def start(self, camera: Camera) -> None:
        """Record from now on, seen from there."""
        self._take = _Take(camera)

    def see(self, time_s: float, qpos: np.ndarray, markers: Sequence[Marker]) -> None:
        """A state that is shown: seconds simulated since the start, (nq,) positions, and what is drawn besides."""
        take = self._take
        if take is not None and (not take.time_T or time_s > take.time_T[-1]):
            take.time_T.append(time_s)
            take.qpos_Tq.append(np.array(qpos, float))
            take.markers_T.append(markers)

    def stop(self, done: Callable[[Path | None, str], object]) -> None:
        """End the recording and write it meanwhile; `done` is called from another thread.

        Args:
            done: takes the film's path, or None, and what to say of it.
        """
        take, self._take = self._take, None
        if take is None or len(take.time_T) < 2:
            done(None, "nothing was recorded: the simulation stood still")
            return
        self._writer = threading.Thread(target=self._write, args=(take, done), daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Until the film is written, if one is being written."""
        if self._writer is not None:
            self._writer.join()

    def _write(self, take: _Take, done: Callable[[Path | None, str], object]) -> None:
        path = self._folder / f"view_{files.stamp()}.mp4"
        time_T = np.array(take.time_T)
        shown = np.searchsorted(time_T, np.arange(time_T[0], time_T[-1], 1 / _FPS))
        try:
            render_video(
                self._model,
                np.array(take.qpos_Tq)[shown],
                path,
                fps=_FPS,
                camera=take.camera,
                markers_T=[take.markers_T[i] for i in shown],
            )
        except (KsimError, OSError) as error:
            done(None, f"no film: {error}")
        else:
            done(path, f"saved {path}")
