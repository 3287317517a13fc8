"""The learning curves of a task's groups, as one PNG."""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from ksim.report.groups import Group, Task
from ksim.report.stats import Curve, Results

DPI = 200  # twice what a page shows it at, for screens with fine pixels
_INK, _GREY, _FAINT = "#1f2933", "#5f6c7b", "#e4e7eb"
_WIDTH = 12.0  # inches
_LEGEND_CHARACTERS = 150  # that fit into the width
_LONGEST_LABEL = 80
_COLORS = [to_hex(color) for color in colormaps["tab10"].colors]  # type: ignore[attr-defined]
_DASHES: tuple[Any, ...] = ("-", "-.", ":")


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a key of the log lines, and what its values are multiplied with."""

    key: str
    title: str
    factor: float = 1.0


PANELS = (
    Panel("return", "Return of an episode"),
    Panel("episode_length_s", "Length of an episode (s)"),
    Panel("falls", "Falls (% of the episodes)", factor=100.0),
)


def draw(results: Results) -> bytes:
    """A PNG with a panel for each of `PANELS`: mean and interval of each group, and its runs as thin lines.

    A mean is dashed and thin at the steps that some of the group's runs have no number for.
    """
    task, curves = results.task, results.curves
    styles = [style_of(index) for index in range(len(task.groups))]
    legend = [
        Line2D([], [], color=color, linestyle=dashes, linewidth=2.0, label=_label(task, index))
        for index, (dashes, color) in enumerate(styles)
    ]
    longest = max(len(str(line.get_label())) for line in legend)
    columns = max(1, min(len(legend), _LEGEND_CHARACTERS // (longest + 8)))
    height = 3.5 + 0.2 * math.ceil(len(legend) / columns)
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    title = figure.suptitle(f"{task.name}: learning curves", x=0.005, ha="left", fontsize=11, fontweight="bold")
    title.set(color=_INK, parse_math=False)
    for ax, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for group, found, style in zip(task.groups, curves, styles, strict=True):
            _draw_lines(ax, panel, group, found[panel.key], *style)
        limits = ax.get_ylim()  # of the lines alone: two or three seeds make very wide intervals
        for found, (_, color) in zip(curves, styles, strict=True):
            _draw_interval(ax, panel, found[panel.key], color)
        ax.set_ylim(limits)
        _finish(ax, panel)
    box = figure.legend(handles=legend, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
    for text in box.get_texts():
        text.set(color=_INK, parse_math=False)  # a regular expression with a $ is no formula
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()


def style_of(index: int) -> tuple[Any, str]:
    """Dashes and colour of a task's group: ten colours, then the same ones with other dashes."""
    return _DASHES[index // len(_COLORS) % len(_DASHES)], _COLORS[index % len(_COLORS)]


def _draw_lines(ax: Axes, panel: Panel, group: Group, found: Curve, dashes: Any, color: str) -> None:
    if len(group.counted) > 1:
        for run in group.counted:
            x_T, y_T = run.curve(panel.key)
            ax.plot(x_T, y_T * panel.factor, color=color, linewidth=0.6, alpha=0.4)
    if not len(found.step):
        return
    mean_T = found.mean * panel.factor
    whole_T = found.n == found.n.max()
    rest_T = ~whole_T  # with its neighbours, so that the pieces meet
    rest_T[1:] |= ~whole_T[:-1]
    rest_T[:-1] |= ~whole_T[1:]
    marker = "." if len(mean_T) == 1 else None
    ax.plot(found.step, np.where(whole_T, mean_T, np.nan), dashes, color=color, linewidth=1.8, marker=marker)
    ax.plot(found.step, np.where(rest_T, mean_T, np.nan), "--", color=color, linewidth=1.0)


def _draw_interval(ax: Axes, panel: Panel, found: Curve, color: str) -> None:
    low_T, high_T = found.low * panel.factor, found.high * panel.factor
    ax.fill_between(found.step, low_T, high_T, color=color, alpha=0.15, linewidth=0)


def _finish(ax: Axes, panel: Panel) -> None:
    ax.set_title(panel.title, fontsize=10, color=_INK)
    ax.set_xlabel("env steps", fontsize=9, color=_GREY)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.grid(color=_FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8, colors=_GREY, length=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#b8c0c9")


def _label(task: Task, index: int) -> str:
    group = task.groups[index]
    seeds = f"{len(group.counted)} {'seed' if len(group.counted) == 1 else 'seeds'}"
    if len(task.groups) == 1:
        return seeds
    label = task.label(group)
    return f"#{index}  {label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + '…'}  ({seeds})"
