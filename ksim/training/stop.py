"""Signals to a training: Ctrl-C and SIGTERM stop it after its chunk; a cluster job asks for something else."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile

log = logging.getLogger(__name__)


class StopRequest:
    """A context manager that notes the first signal, so that a training saves and stops after its chunk.

    A second signal ends it at once.

    Attributes:
        signum: the signal, once there was one; else None.
    """

    signals: ClassVar[tuple[int, ...]] = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}
        self._answer: Callable[[], None] | None = None  # instead of a note, where nothing is left to save

    @property
    def exit_code(self) -> int:
        """What the shell expects of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signum or 0)

    def also(self, signum: int | None) -> None:
        """Take note of a signal that came to another process of the training, if one did."""
        if signum is not None and self.signum is None:
            self._handle(signum, None)

    def saved(self, status: StatusFile, run_dir: RunDir, step: int) -> None:
        """What follows once the training that was asked to stop has saved itself at `step` env steps.

        Raises:
            SystemExit: it ends here.
        """
        self.note(status, run_dir, step)
        self.leave()

    def note(self, status: StatusFile, run_dir: RunDir, step: int) -> None:
        """Tell the user and the status of one of the trainings that were asked to stop."""
        status.end("interrupted", step)
        log.info("stopped at %s steps; continue with: python -m ksim.run resume=%s", f"{step:,}", run_dir.path)

    def leave(self) -> None:
        """End the process, now that all is noted.

        Raises:
            SystemExit: it ends here.
        """
        raise SystemExit(self.exit_code)

    @contextlib.contextmanager
    def at_once(self, answer: Callable[[], None]) -> Iterator[None]:
        """Where nothing is left to save, as in the final evaluation: a signal is answered when it comes.

        One that came too late for the training to answer it is answered now.

        Args:
            answer: notes where each training stands, and leaves.

        Raises:
            SystemExit: by the answer.
        """
        with self:
            self._answer = answer
            try:
                if self.signum is not None:
                    answer()
                yield
            finally:
                self._answer = None

    def __enter__(self) -> Self:
        try:
            self._before = {s: signal.signal(s, self._handle) for s in self.signals}
        except ValueError:  # not in the main thread: signals are somebody else's
            self._before = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise SystemExit(self.exit_code)
        self.signum = signum
        if self._answer is not None:
            self._answer()
        else:
            log.info("%s: stopping after this chunk; once more stops at once", signal.Signals(signum).name)
