"""Simulated time against the clock on the wall."""

import time
from collections.abc import Callable

_MAX_BEHIND_S = 0.1  # of wall time: what the engine does not catch up with is dropped, not hurried after
_MEASURED_S = 0.5


class Pace:
    """How many steps are due, and how fast they were taken.

    Attributes:
        speed: simulated seconds in a second that are asked for.
        measured: that there were lately.
    """

    def __init__(self, step_dt: float, speed: float, clock: Callable[[], float] = time.monotonic):
        """Begin now.

        Args:
            step_dt: seconds of a step.
            speed: simulated seconds in a second.
            clock: seconds of wall time.
        """
        self.speed = speed
        self.measured = 0.0
        self._step_dt = step_dt
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Nothing is due: what went by until now was a pause."""
        self._last = self._since = self._clock()
        self._due_s = 0.0
        self._taken = 0

    def due(self) -> int:
        """Steps that are due by now."""
        now = self._clock()
        self._due_s += (now - self._last) * self.speed
        self._due_s = min(self._due_s, max(_MAX_BEHIND_S * self.speed, self._step_dt))
        self._last = now
        return int(self._due_s / self._step_dt + 1e-9)

    def took(self) -> None:
        """One step was taken."""
        self._due_s -= self._step_dt
        self._taken += 1
        elapsed = self._clock() - self._since
        if elapsed >= _MEASURED_S:
            self.measured = self._taken * self._step_dt / elapsed
            self._taken, self._since = 0, self._clock()
