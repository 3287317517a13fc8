"""Where a run's messages go."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Messages with dates to the end of the file `path`, as Hydra sets it up for a run, and plain to the terminal."""
    root = logging.getLogger()
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
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
