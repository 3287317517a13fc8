"""`metrics.jsonl`: one JSON object a log interval, appended as a whole line."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ksim.errors import KsimError
from ksim.store import files
from ksim.system import foreign

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends lines to `path`. On opening, a last line that was cut off (a killed writer) is removed.

    For a resume that loses and doubles nothing: write the line of a step before its checkpoint is saved, and
    call `truncate_after(step of the checkpoint)` before the first new line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files.make_dirs(path.parent)
        self._file = files.AppendedFile(path)
        files.fsync_dir(path.parent)
        data = path.read_bytes()
        if not data.endswith(b"\n") and data:
            self._file.truncate(data.rfind(b"\n") + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends `{"step": step, **metrics}`; values are anything that `float` takes, or text.

        JSON has no NaN: such values become null, and `nonfinite` counts them. Raises KsimError on a full disk,
        leaving the lines before whole.
        """
        line: dict[str, Any] = {"step": int(step)}
        nonfinite = 0
        for name, value in metrics.items():
            if isinstance(value, str) or value is None:
                line[name] = value
            elif math.isfinite(number := value if type(value) is int else float(value)):
                line[name] = number
            else:
                line[name] = None
                nonfinite += 1
        if nonfinite:
            line["nonfinite"] = nonfinite
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        size = self._file.size()
        try:
            while data:
                data = data[self._file.append(data) :]
        except OSError as error:
            self._file.truncate(size)
            raise KsimError(f"{self.path} cannot be written: {error.strerror}") from None

    def truncate_after(self, step: int) -> None:
        """Removes everything from the first line of a later step on."""
        end = 0
        for start, stop, line in _lines(self.path):
            if line is not None and line.get("step", 0) > step:
                self._file.truncate(start)
                return
            end = stop
        self._file.truncate(end)

    def sync(self) -> None:
        """Makes the lines survive a power cut; call it before a checkpoint is saved."""
        try:
            self._file.sync()
        except OSError as error:
            raise KsimError(f"{self.path} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Closes the file; twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path, warn: Callable[[str], None] = log.warning) -> list[dict[str, Any]]:
    """All whole lines; damaged ones are left out, and `warn` is told. An absent file has none. Raises OSError."""
    return [line for _, _, line in _lines(path, warn) if line is not None]


def _lines(path: Path, warn: Callable[[str], None] = log.warning) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """Each whole line with its first byte and the byte after it; None for a damaged one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    start = 0
    while (stop := data.find(b"\n", start) + 1) > 0:
        try:
            line = foreign.parse_json(data[start:stop])
        except ValueError:
            line = None
        if not isinstance(line, dict):
            warn(f"{path}: the line at byte {start} is damaged and left out")
            line = None
        yield start, stop, line
        start = stop
    if start < len(data):
        warn(f"{path}: the last line is cut off and left out")
