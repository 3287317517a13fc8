"""Ctrl-C and SIGTERM: the first one is a request, the second one ends at once."""

import logging
import signal
from types import FrameType, TracebackType
from typing import Self

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context manager that notes the first signal, so that a training stops after its chunk.

    Attributes:
        signum: the signal, once there was one; else None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    @property
    def exit_code(self) -> int:
        """What the shell expects of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signum or 0)

    def __enter__(self) -> Self:
        try:
            self._before = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        except ValueError:  # not in the main thread: signals are somebody else's
            self._before = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise SystemExit(self.exit_code)
        self.signum = signum
        log.info("%s: stopping after this chunk; once more stops at once", signal.Signals(signum).name)
