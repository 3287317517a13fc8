"""Plots of a training and of one episode, as small PNG files.

Figures are built with matplotlib's objects and drawn by Agg: there is no pyplot, hence no global state and no display.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image

MAX_POINTS = 1000  # more than a small picture can show
MAX_LINES = 8  # on one pair of axes; more become small multiples
_DPI = 90


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    ylabel: str
    key: str  # what is drawn in it; a regular expression for several
    factor: float = 1.0
    log: bool = False
    total: bool = False  # what the lines count, added up


# Figures with fixed panels. A key in `eval/` is drawn dashed into the panel of the training's key.
FIGURES = {
    "learning": (
        Panel("Return", "mean return of an episode", "return"),
        Panel("Episode length", "mean length (s)", "episode_length_s"),
        Panel("Falls", "share of episodes (%)", "falls", factor=100.0),
        Panel("Throughput", "env steps/s", "env_steps_per_s"),
    ),
    "optimization": (
        Panel("Policy loss", "loss", "ppo/policy_loss"),
        Panel("Value loss", "loss", "ppo/value_loss", log=True),
        Panel("Explained variance", "share of the returns' variance", "ppo/explained_variance"),
        Panel("Policy change per update", "KL divergence (nat)", "ppo/kl"),
        Panel("Clipped share", "share of ratios clipped (%)", "ppo/clip_fraction", factor=100.0),
        Panel("Learning rate", "learning rate", "ppo/learning_rate", log=True),
        Panel("Gradient norm", "norm", "ppo/grad_norm"),
        Panel("Exploration", "mean std of the actions", "ppo/action_std"),
        Panel("Entropy", "entropy (nat)", "ppo/entropy"),
        Panel("Reward", "mean reward of an env step", "ppo/reward"),
        Panel("Ratio at the first minibatch", "largest |ratio - 1|", "ppo/first_ratio_error"),
        Panel("Not finite or diverged", "env steps so far", "nan_guard|not_finite/.*", total=True),
    ),
}
# Figures with a panel for each key under a prefix: file name, prefix, title, y label.
FAMILIES = (
    ("rewards", "reward/", "Reward terms", "weighted reward per second"),
    ("terminations", "termination/", "Ends of episodes", "share of ends"),
    ("metrics", "metric/", "Task metrics", "episode average"),
    ("curriculum", "curriculum/", "Curriculum", "value"),
)


def plot_training(metrics: Sequence[Mapping[str, Any]], folder: Path | str) -> list[Path]:
    """Draws the learning curves of `metrics`, the lines of a metrics.jsonl, into `folder`; returns the files.

    The x axis is the number of env steps (`step`). What no line holds is not plotted; None and values
    that are not finite are gaps. A figure with nothing to show is not written.
    """
    folder = Path(folder)
    table = _table(metrics)
    x_T = table.pop("step", np.arange(len(metrics), dtype=np.float64))
    files = []
    for name, panels in FIGURES.items():
        drawn = [(panel, keys) for panel in panels if (keys := _keys_of(panel, table))]
        files += _grid(folder / f"{name}.png", name.capitalize(), [_draw_panel(p, k, x_T, table) for p, k in drawn])
    for name, prefix, title, y_label in FAMILIES:
        keys = [key for key in table if key.removeprefix("eval/").startswith(prefix)]
        names = list(dict.fromkeys(key.removeprefix("eval/") for key in keys))
        family = [Panel(n.removeprefix(prefix), y_label, re.escape(n)) for n in names]
        files += _grid(folder / f"{name}.png", title, [_draw_panel(p, _keys_of(p, table), x_T, table) for p in family])
    own = [Panel(name, "value", re.escape(name)) for name in _algorithm_names(table)]
    return files + _grid(
        folder / "algorithm.png", "Algorithm", [_draw_panel(p, _keys_of(p, table), x_T, table) for p in own]
    )


def plot_episode(
    times_T: np.ndarray,
    series: Mapping[str, np.ndarray],
    path: Path | str,
    ylabel: str,
    *,
    title: str = "",
) -> Path:
    """Draws quantities of one episode over time (s) into a PNG and returns its path.

    Each value of `series` has shape `(T,)`, or `(T, n)` for n lines named `name[i]`. Up to eight
    lines share one pair of axes; more get one each. Values that are not finite are gaps.

    Raises:
        ValueError: no series, or a length that is not that of `times_T`.
    """
    path = Path(path)
    times_T = np.asarray(times_T, dtype=np.float64)
    lines: dict[str, np.ndarray] = {}
    for name, values in series.items():
        array = np.asarray(values, dtype=np.float64)
        if array.ndim not in (1, 2) or len(array) != len(times_T):
            raise ValueError(f"series '{name}' must have shape ({len(times_T)},) or (.., n), got {array.shape}")
        if array.ndim == 1:
            lines[name] = array
        else:
            lines.update({f"{name}[{i}]": array[:, i] for i in range(array.shape[1])})
    if not lines:
        raise ValueError("there is no series to plot")

    def draw_all(ax: Axes) -> None:
        for name, values_T in lines.items():
            _line(ax, times_T, values_T, label=name)
        ax.set_ylabel(ylabel)
        if len(lines) > 1:
            ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)

    def draw_one(name: str, values_T: np.ndarray) -> Callable[[Axes], None]:
        def draw(ax: Axes) -> None:
            _line(ax, times_T, values_T)
            ax.set_title(name, fontsize=9)
            ax.set_ylabel(ylabel, fontsize=8)

        return draw

    title = title or path.stem.replace("_", " ").capitalize()
    if len(lines) <= MAX_LINES:
        _grid(path, title, [draw_all], "time (s)", engineering=False)
    else:
        _grid(path, title, [draw_one(n, v) for n, v in lines.items()], "time (s)", engineering=False)
    return path


def _table(metrics: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns every numeric key as a float column of shape (T,), NaN where a line has no number for it."""
    columns: dict[str, np.ndarray] = {}
    for row, line in enumerate(metrics):
        for key, value in line.items():
            if isinstance(value, (int, float, np.number)) and math.isfinite(float(value)):
                columns.setdefault(key, np.full(len(metrics), np.nan))[row] = float(value)
    return columns


def _algorithm_names(table: Mapping[str, np.ndarray]) -> list[str]:
    """The names with a slash that no other figure draws: what an algorithm other than PPO tells."""
    panels = "|".join(panel.key for panels in FIGURES.values() for panel in panels)
    families = tuple(prefix for _, prefix, _, _ in FAMILIES)
    names = dict.fromkeys(key.removeprefix("eval/") for key in table)
    return [n for n in names if "/" in n and not n.startswith(families) and not re.fullmatch(panels, n)]


def _keys_of(panel: Panel, table: Mapping[str, np.ndarray]) -> list[str]:
    keys = [key for key in table if re.fullmatch(f"(eval/)?({panel.key})", key)]
    return sorted(keys, key=lambda key: key.startswith("eval/"))  # evaluations are drawn on top


def _draw_panel(
    panel: Panel, keys: Sequence[str], x_T: np.ndarray, table: Mapping[str, np.ndarray]
) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        training = [key for key in keys if not key.startswith("eval/")]
        for key in keys:
            is_eval = key not in training
            y_T = (np.nancumsum(table[key]) if panel.total else table[key]) * panel.factor
            # Evaluations are rare: their points are joined across the lines that have none.
            has_T = np.isfinite(y_T) if is_eval else np.ones(len(x_T), dtype=bool)
            style = {"linestyle": "--", "marker": "o", "markersize": 3} if is_eval else {}
            name = "evaluation" if is_eval else "training" if len(training) == 1 else key
            _line(ax, x_T[has_T], y_T[has_T], label=name, **style)
        if panel.log:
            ax.set_yscale("log")
        ax.set_title(panel.title, fontsize=10)
        ax.set_ylabel(panel.ylabel, fontsize=8)
        if len(keys) > 1:
            ax.legend(fontsize=7, frameon=False)

    return draw


def _line(ax: Axes, x_T: np.ndarray, y_T: np.ndarray, **style: Any) -> None:
    y_T = np.where(np.isfinite(y_T), y_T, np.nan)
    stride = max(1, math.ceil(len(x_T) / MAX_POINTS))
    # A lone point between gaps has no line to show it.
    alone = len(x_T) == 1 or not np.isfinite(y_T[:-1] + y_T[1:]).any()
    ax.plot(x_T[::stride], y_T[::stride], **{"linewidth": 1.2, "marker": "." if alone else None, **style})


def _grid(
    path: Path,
    title: str,
    draw: Sequence[Callable[[Axes], None]],
    x_label: str = "env steps",
    *,
    engineering: bool = True,
) -> list[Path]:
    """Draws one pair of axes for each function into a figure; an empty list writes nothing."""
    if not draw:
        return []
    columns = min(4 if len(draw) > 9 else 3 if len(draw) > 4 else 2, len(draw))
    rows = math.ceil(len(draw) / columns)
    size = (9.0, 4.5) if len(draw) == 1 else (3.6 * columns + 0.4, 2.3 * rows + 0.5)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained" if len(draw) == 1 else None)
    canvas = FigureCanvasAgg(figure)
    if len(draw) > 1:  # margins in inches that are wide enough: to compute them takes longer than to draw
        width, height = size
        figure.subplots_adjust(left=0.75 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - 0.65 / height)
        figure.subplots_adjust(wspace=0.8 / (width / columns - 0.7), hspace=0.75 / (height / rows - 0.7))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, function in zip(axes, draw, strict=False):
        function(ax)
        ax.grid(alpha=0.3)
        ax.tick_params(which="both", labelsize=8)
        ax.set_xlabel(x_label, fontsize=8)
        if engineering:
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in axes[len(draw) :]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.png")
    try:
        canvas.draw()
        # A palette makes the file three times smaller; plots have few colours.
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(96).save(partial, optimize=True)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return [path]
