"""Where a run's messages go."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

TERMINAL = Path("terminal")  # in the place of a log file: what only the terminal shows
_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] %(message)s"
_only: ContextVar[Path | None] = ContextVar("_only", default=None)  # where messages go; None: everywhere


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Messages with dates to the end of the file `path`, as Hydra sets it up for a run, and plain to the terminal."""
    root = logging.getLogger()
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter(_FORMAT))
    added: list[logging.Handler] = [file]
    if not root.handlers:
        added.append(logging.StreamHandler())
    level = root.level
    root.setLevel(logging.INFO)
    for handler in added:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in added:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)


@contextlib.contextmanager
def logging_to_each(paths: Sequence[Path]) -> Iterator[None]:
    """As `logging_to`, of several runs in one process: a message goes to all of them, unless it is within `only_to`."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            before = set(logging.getLogger().handlers)
            stack.enter_context(logging_to(path))
            for handler in set(logging.getLogger().handlers) - before:
                if isinstance(handler, logging.FileHandler):
                    handler.addFilter(lambda record, path=path: _only.get() in (None, path))  # type: ignore[misc]
        for handler in logging.getLogger().handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_for_terminal)
                stack.callback(handler.removeFilter, _for_terminal)
        yield


@contextlib.contextmanager
def only_to(path: Path) -> Iterator[None]:
    """Messages within are of one run: they go to its file, or to the terminal where that is `TERMINAL`.

    Its warnings reach the terminal, too.
    """
    token = _only.set(path)
    try:
        yield
    finally:
        _only.reset(token)


def _for_terminal(record: logging.LogRecord) -> bool:
    return _only.get() in (None, TERMINAL) or record.levelno >= logging.WARNING
