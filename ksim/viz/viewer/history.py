"""The newest values of named signals, for plots."""

import threading
from collections.abc import Mapping

import numpy as np


class History:
    """A ring of the newest points: a time in seconds, and a value of each signal.

    It may be written and read by several threads.
    """

    def __init__(self, size: int):
        """Keep `size` points."""
        self._size = size
        self._lock = threading.Lock()
        self._names: tuple[str, ...] = ()
        self._ring = np.empty((size, 1))
        self._count = 0

    def append(self, time_s: float, values: Mapping[str, float]) -> None:
        """Add a point; other names than before begin anew."""
        with self._lock:
            if tuple(values) != self._names:
                self._names = tuple(values)
                self._ring = np.empty((self._size, 1 + len(values)))
                self._count = 0
            self._ring[self._count % self._size] = (time_s, *values.values())
            self._count += 1

    def clear(self) -> None:
        """Forget all points."""
        with self._lock:
            self._count = 0

    def __len__(self) -> int:
        return min(self._count, self._size)

    @property
    def total(self) -> int:
        """How many points were ever added: whether there is anything new since the last look."""
        return self._count

    def read(self, newest: int | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Times (n,) and values (n,) of each signal, oldest first; of so many of the newest points; None: all."""
        with self._lock:
            names, start = self._names, self._count % self._size if self._count > self._size else 0
            points = np.roll(self._ring[: min(self._count, self._size)], -start, axis=0)
        points = points if newest is None else points[-newest:]
        return points[:, 0], {name: points[:, i + 1] for i, name in enumerate(names)}
