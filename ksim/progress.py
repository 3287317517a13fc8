"""What a training shows while it goes on: a progress bar in a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)

_LINE_EVERY_S = 20.0


class Progress:
    """A context manager around the training's loop.

    Args:
        total_steps: env steps of the whole training.
        steps_per_chunk: env steps of a log interval.
    """

    def __init__(self, total_steps: int, steps_per_chunk: int):
        self.total_steps = total_steps
        self.steps_per_chunk = steps_per_chunk
        self._bar: Bar | None = None
        self._started = time.monotonic()
        self._last_line = float("-inf")
        if sys.stderr.isatty():
            self._bar = Bar(
                BarColumn(bar_width=20),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                speed_estimate_period=120.0,
            )
            self._task = self._bar.add_task("", total=total_steps, numbers="compiling ...")

    def show(self, step: int, line: Mapping[str, Any]) -> None:
        """The newest log line: at once in a bar; else logged, the first, the last and one every 20 s."""
        numbers = describe(line)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        now = time.monotonic()
        if now - self._last_line > _LINE_EVERY_S or step >= self.total_steps:
            self._last_line = now
            left = (now - self._started) / step * (self.total_steps - step)
            # In a terminal the bar shows it; the file handler of train.log gets it all the same.
            level = logging.DEBUG if self._bar is not None else logging.INFO
            log.log(level, "%s/%s steps  %s  %.0f min left", f"{step:,}", f"{self.total_steps:,}", numbers, left / 60)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


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
