"""The process that draws the rewards of a viewer: `python -P plot_worker.py <picture>`.

It is started by its file's path, so that it imports nothing of ksim. It reads the points from its stdin, an `.npz` with
its length before it, draws them, renames the picture to its place, answers a byte, and so on until stdin is closed.
"""

import io
import os
import signal
import struct
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_COLUMNS = 3
_DPI = 80
_TOTAL = "reward/total"


def main(path: Path) -> None:
    """Draw what comes, until nothing comes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the viewer's to answer
    requests, drawing = sys.stdin.buffer, Drawing()
    while header := requests.read(8):
        with np.load(io.BytesIO(requests.read(*struct.unpack("<q", header)))) as arrays:
            series = dict(arrays)
        temp = temporary(path)
        drawing.save(series, temp)
        os.replace(temp, path)
        sys.stdout.buffer.write(b".")
        sys.stdout.buffer.flush()


def temporary(path: Path) -> Path:
    """Where a picture is drawn before it is renamed."""
    return path.with_name(f".{path.name}.tmp")


class Drawing:
    """A figure whose lines get new points; making one anew takes much longer."""

    def __init__(self) -> None:
        self._names: list[str] | None = None
        self._lines: dict[str, tuple[Axes, Line2D]] = {}

    def save(self, series: dict[str, np.ndarray], path: Path) -> None:
        """Draw series over `time` (s), each (n,), into a PNG."""
        time_s = series.pop("time")
        if list(series) != self._names:
            self._layout(list(series))
        for name, (axes, line) in self._lines.items():
            line.set_data(time_s, series[name])
            axes.relim()
            axes.autoscale_view()
        FigureCanvasAgg(self._figure).print_png(str(path))

    def _layout(self, names: list[str]) -> None:
        self._names = names
        ordered = sorted(names, key=lambda name: (name != _TOTAL, name.startswith("termination/")))
        rows = max(1, -(-len(ordered) // _COLUMNS))
        self._figure = Figure(figsize=(4.0 * _COLUMNS, 1.9 * rows + 0.4), dpi=_DPI, layout="constrained")
        self._figure.supxlabel("simulated time (s)", fontsize=9)
        self._lines = {}
        if not ordered:
            self._figure.text(0.5, 0.5, "no env step yet", ha="center")
        for i, name in enumerate(ordered):
            axes = self._figure.add_subplot(rows, _COLUMNS, i + 1)
            is_end = name.startswith("termination/")
            (line,) = axes.plot([], [], linewidth=1.0, color="tab:red" if is_end else "tab:blue")
            axes.set_title(_title(name), fontsize=9)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            axes.margins(x=0.01)
            self._lines[name] = (axes, line)


def _title(name: str) -> str:
    kind, _, term = name.partition("/")
    return "total reward per second" if name == _TOTAL else f"{'ends: ' if kind == 'termination' else ''}{term}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
