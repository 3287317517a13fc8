"""Markers on their way to a renderer: collected frame by frame, and packed for the render worker."""

from collections.abc import Iterable, Sequence

import numpy as np

from ksim.envs.markers import Arrow, Capsule, Frame, Ghost, Marker, Rgba, Sphere, Vec3

# One row per shape in what the render worker reads: frame, kind, from (3), to (3), radius, rgba (4).
ROW_SIZE = 13
ARROW, SPHERE, CAPSULE = 0, 1, 2


class DebugVisualizer:
    """Collects markers frame by frame: `next_frame()`, then any number of `add(...)`.

    `markers_T` is what `render_video` takes: one list a frame.
    """

    def __init__(self) -> None:
        self.markers_T: list[list[Marker]] = []

    def next_frame(self) -> None:
        """Starts the list of the next frame."""
        self.markers_T.append([])

    def add(self, *markers: Marker) -> None:
        """Draws `markers` in the current frame (the first one, if none was started)."""
        if not self.markers_T:
            self.next_frame()
        self.markers_T[-1].extend(markers)


def pack(markers_T: Iterable[Sequence[Marker]]) -> np.ndarray:
    """Returns the markers but ghosts as rows `[frame, kind, from, to, radius, rgba]`, shape `(n, ROW_SIZE)`.

    A marker with a number that is not finite (a diverged state) is left out.
    """
    rows: list[list[float]] = []
    for frame, markers in enumerate(markers_T):
        for marker in markers:
            if not isinstance(marker, Ghost):
                rows.extend([float(frame), *row] for row in _rows(marker))
    return _finite(rows, ROW_SIZE)


def pack_ghosts(markers_T: Iterable[Sequence[Marker]], num_qpos: int) -> np.ndarray:
    """Returns the ghosts as rows `[frame, rgba, qpos]`, shape `(n, 5 + num_qpos)`; others as in `pack`.

    Raises:
        ValueError: a ghost is not of this model.
    """
    rows: list[list[float]] = []
    for frame, markers in enumerate(markers_T):
        for marker in markers:
            if isinstance(marker, Ghost):
                qpos = np.asarray(marker.qpos, dtype=np.float64)
                if qpos.shape != (num_qpos,):
                    raise ValueError(f"a ghost's qpos must have shape ({num_qpos},), got {qpos.shape}")
                rows.append([float(frame), *marker.rgba, *qpos])
    return _finite(rows, 5 + num_qpos)


def _finite(rows: list[list[float]], size: int) -> np.ndarray:
    packed = np.array(rows, dtype=np.float64).reshape(-1, size)
    return packed[np.isfinite(packed).all(axis=1)]


def _rows(marker: Marker) -> list[list[float]]:
    match marker:
        case Arrow():
            return [_row(ARROW, marker.start, marker.end, marker.radius, marker.rgba)]
        case Capsule():
            return [_row(CAPSULE, marker.start, marker.end, marker.radius, marker.rgba)]
        case Sphere():
            return [_row(SPHERE, marker.position, marker.position, marker.radius, marker.rgba)]
        case Frame():
            origin = np.asarray(marker.position, dtype=np.float64)
            axes = _rotation(marker.quat) * marker.length
            colors: tuple[Rgba, ...] = ((0.9, 0.1, 0.1, 1.0), (0.1, 0.8, 0.1, 1.0), (0.1, 0.2, 0.9, 1.0))
            return [_row(ARROW, origin, origin + axes[:, i], marker.radius, colors[i]) for i in range(3)]
        case _:
            raise TypeError(f"not a marker: {marker!r}")


def _row(kind: int, start: Vec3, end: Vec3, radius: float, rgba: Rgba) -> list[float]:
    start = np.asarray(start, dtype=np.float64).reshape(3)
    end = np.asarray(end, dtype=np.float64).reshape(3)
    color = np.asarray(rgba, dtype=np.float64).reshape(4)
    return [float(kind), *start, *end, float(radius), *color]


def _rotation(quat: Sequence[float] | np.ndarray) -> np.ndarray:
    w, x, y, z = np.asarray(quat, dtype=np.float64) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
