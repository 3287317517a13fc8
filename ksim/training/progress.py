"""What a training shows while it goes on: a progress bar in a terminal, a line now and then elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

log = logging.getLogger(__name__)

_LINE_EVERY_S = 20.0
_SMOOTHING = 0.3  # weight of the newest chunk's speed in the time left


class Progress:
    """A context manager around the training's loop.

    Args:
        total_steps: env steps of the whole training.
        bar: whether a terminal shows a bar; else there are only the lines.
    """

    def __init__(self, total_steps: int, bar: bool = True):
        self.total_steps = total_steps
        self._bar = _TwoLines(total_steps) if bar and sys.stderr.isatty() else None
        self._speed: float | None = None
        self._last_line = float("-inf")
        self._stack = contextlib.ExitStack()

    def show(self, step: int, line: Mapping[str, Any]) -> None:
        """The newest log line: at once in a bar; else logged, the first, the last and one every 20 s."""
        new = line["env_steps_per_s"]
        self._speed = new if self._speed is None else self._speed + _SMOOTHING * (new - self._speed)
        left = duration((self.total_steps - step) / self._speed)
        numbers = describe(line)
        if self._bar is not None:
            self._bar.show(step, left, numbers)
        now = time.monotonic()
        if now - self._last_line > _LINE_EVERY_S or step >= self.total_steps:
            self._last_line = now
            # In a terminal the bar has it all; train.log gets the lines in any case.
            extra = {"in_terminal": self._bar is None}
            log.info("%s/%s steps  %s  %s left", f"{step:,}", f"{self.total_steps:,}", numbers, left, extra=extra)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._stack.enter_context(self._bar)
            self._stack.enter_context(logs_above_the_bar())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class _TwoLines(Bar):
    """The bar with steps and time left, and the numbers below it; it fits 80 columns."""

    def __init__(self, total_steps: int):
        self._numbers = "compiling ..."
        self._total = total_steps
        super().__init__(
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[steps]} steps"),
            TextColumn("{task.fields[left]} left"),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self.add_task("", total=total_steps, steps=self._steps(0), left="-:--:--")

    def show(self, step: int, left: str, numbers: str) -> None:
        self._numbers = numbers
        self.update(self._task, completed=step, steps=self._steps(step), left=left, refresh=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self._numbers, overflow="ellipsis", no_wrap=True)

    def _steps(self, step: int) -> str:
        return f"{step:,}/{self._total:,}"


def describe(line: Mapping[str, Any]) -> str:
    """A log line's main numbers for a person."""
    parts = [f"{line['env_steps_per_s']:,.0f} env steps/s"]
    if line.get("return") is not None:
        parts += [
            f"return {line['return']:.2f}",
            f"episode {line['episode_length_s']:.1f} s",
            f"falls {line['falls']:.0%}",
        ]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


@contextlib.contextmanager
def logs_above_the_bar() -> Iterator[None]:
    """Sends what is logged to the terminal through the running bar, which then stays below it, in one piece.

    Rich puts its own writer in the place of `sys.stderr`; a log handler still holds the old one.
    """
    changed = []
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler and handler.stream.isatty():
            changed.append((handler, handler.stream))
            handler.setStream(sys.stderr)
            handler.addFilter(_for_terminal)
    try:
        yield
    finally:
        for handler, stream in changed:
            handler.setStream(stream)
            handler.removeFilter(_for_terminal)


def _for_terminal(record: logging.LogRecord) -> bool:
    return getattr(record, "in_terminal", True)
