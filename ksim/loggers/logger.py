"""What a logger is, what it is told about its run, and how several of them are told at once."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What a logger's constructor is told, as its keyword argument `run`.

    Attributes:
        path: the run directory; a logger may write into a file or folder of its own there. A resumed run has the same.
        name: `<task>/<folder>`.
        config: the resolved config, as plain mappings and lists.
    """

    path: Path
    name: str
    config: Mapping[str, Any]


class Logger(Protocol):
    """A listener to a training, constructed with `run=RunInfo(...)` and its settings from YAML as keywords.

    What it raises ends neither the training nor other loggers: it is warned of, and this logger is left out from there.
    """

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Numbers at `step` env steps; None where there is none. A resume starts again at an earlier step."""

    def log_video(self, name: str, path: Path, step: int) -> None:
        """An mp4 that was filmed at `step` env steps."""

    def finish(self, exit_code: int = 0) -> None:
        """The run is over; 0 for a success."""


class Loggers:
    """All loggers of a run, as one; none of them can end a training. A context manager that finishes them."""

    def __init__(self, loggers: Mapping[str, Logger]):
        """Args:
        loggers: by name, as in the config.
        """
        self._loggers = dict(loggers)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Numbers at `step` env steps."""
        self._tell(lambda logger: logger.log(metrics, step))

    def log_video(self, name: str, path: Path, step: int) -> None:
        """An mp4 that was filmed at `step` env steps."""
        self._tell(lambda logger: logger.log_video(name, path, step))

    def finish(self, exit_code: int = 0) -> None:
        """The run is over; 0 for a success."""
        self._tell(lambda logger: logger.finish(exit_code))
        self._loggers = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.finish(0 if kind is None else 1)

    def _tell(self, what: Callable[[Logger], object]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                what(logger)
            except Exception as error:
                warn(name, error)
                del self._loggers[name]


def warn(name: str, error: Exception) -> None:
    """Tell once of a logger that is left out from here on."""
    log.warning("logger.%s failed and is left out from here on: %s: %s", name, type(error).__name__, error)
