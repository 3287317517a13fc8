"""Live plots on the page: rewards, terminations and the signals of a joint."""

import colorsys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import viser
from viser import uplot

from ksim.viz.viewer.history import History

_POINTS = 300  # of a curve on the page; about as many as it has pixels
_EVERY_S = 0.5  # a browser takes some milliseconds for each plot
_HEIGHT = 190  # pixels
_WINDOWS = {"5 s": 5.0, "20 s": 20.0, "100 s": 100.0, "all": np.inf}

Signals = Mapping[str, np.ndarray]


class LivePlots:
    """Curves of a history, redrawn a few times a second where there is anything new."""

    def __init__(
        self,
        server: viser.ViserServer,
        history: History,
        joints: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Add the plots where the page's next elements go.

        Args:
            server: the page's.
            history: `ksim.viz.viewer.simulation.Simulation.history`.
            joints: names of the joints that can be chosen.
            clock: seconds of wall time.
        """
        self._gui, self._history, self._clock = server.gui, history, clock
        self._drawn_at, self._drawn_total = -np.inf, -1
        self._window = self._gui.add_dropdown("time shown", tuple(_WINDOWS), initial_value="20 s")
        self._total = _Plot(self._gui, "reward per second")
        self._terms = _Plot(self._gui, "reward terms, weighted, per second")
        self._ends = _Plot(self._gui, "terminations", at_most_one=True)
        self._joint = self._gui.add_dropdown("joint", tuple(joints)) if joints else None
        self._angle = _Plot(self._gui, "target and position, rad or m")
        self._torque = _Plot(self._gui, "torque, N m or N")
        for choice in (self._window, self._joint):
            if choice is not None:
                choice.on_update(self._changed)

    def update(self) -> None:
        """Redraw what has changed, if it is time to."""
        now = self._clock()
        if now - self._drawn_at < _EVERY_S or self._drawn_total == self._history.total:
            return
        self._drawn_at, self._drawn_total = now, self._history.total
        time_T, signals = self._history.read()
        if len(time_T) < 2:
            return
        seen = time_T >= time_T[-1] - _WINDOWS[self._window.value]
        time_T, signals = time_T[seen], {name: x_T[seen] for name, x_T in signals.items()}
        terms = _below("reward/", signals)
        self._total.draw(time_T, {"total": terms.pop("total")} if "total" in terms else {})
        self._terms.draw(time_T, terms)
        self._ends.draw(time_T, _below("termination/", signals))
        if self._joint is not None:
            joint = _below(f"joint/{self._joint.value}/", signals)
            self._torque.draw(time_T, {name: joint.pop(name) for name in ("torque",) if name in joint})
            self._angle.draw(time_T, joint)

    async def _changed(self, _: object) -> None:
        self._drawn_at, self._drawn_total = -np.inf, -1


class _Plot:
    """A plot whose curves may become others."""

    def __init__(self, gui: viser.GuiApi, title: str, *, at_most_one: bool = False):
        self._gui, self._title, self._at_most_one = gui, title, at_most_one
        self._names: tuple[str, ...] = ("",)
        self._handle = gui.add_uplot(
            (np.zeros(1), np.zeros(1)),
            _series(self._names),
            title=title,
            height=_HEIGHT,
            scales={"x": {"time": False}, "y": {"range": (-0.05, 1.05)} if at_most_one else {}},
            legend={"live": False},
            visible=False,
        )

    def draw(self, time_T: np.ndarray, signals: Signals) -> None:
        if names := tuple(signals):
            if names != self._names:
                # Both in one piece: a plot has as many curves as arrays.
                self._names = names
                self._handle.series = _series(names)
            self._handle.data = thinned(time_T, list(signals.values()))
        self._handle.visible = bool(names)


def thinned(time_T: np.ndarray, signals: Sequence[np.ndarray], points: int = _POINTS) -> tuple[np.ndarray, ...]:
    """At most about so many points of each curve, the largest and the smallest value of each stretch among them.

    Args:
        time_T: (T,) in rising order.
        signals: each (T,).
        points: how many.
    """
    if len(time_T) <= points:
        return (time_T, *signals)
    per_bin = -(-2 * len(time_T) // points)
    count = len(time_T) // per_bin
    first = len(time_T) - count * per_bin  # what does not fill a bin is the oldest
    binned = [x_T[first:].reshape(count, per_bin) for x_T in signals]
    ends = time_T[first:].reshape(count, per_bin)[:, [0, -1]]
    # In a bin the extremes come in the order in which they were.
    extremes = []
    for x in binned:
        low, high = x.argmin(axis=1), x.argmax(axis=1)
        order = np.stack([np.minimum(low, high), np.maximum(low, high)], axis=1)
        extremes.append(np.take_along_axis(x, order, axis=1).ravel())
    return (ends.ravel(), *extremes)


def _below(prefix: str, signals: Signals) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): x_T for name, x_T in signals.items() if name.startswith(prefix)}


def _series(names: Sequence[str]) -> tuple[uplot.Series, ...]:
    curves = [uplot.Series(label=name, stroke=_colour(i), width=1.5) for i, name in enumerate(names)]
    return (uplot.Series(label="s"), *curves)


def _colour(index: int) -> str:
    """Colours as far apart as possible, however many there are: steps of the golden ratio around the wheel."""
    red, green, blue = colorsys.hls_to_rgb((0.58 + index * 0.618034) % 1.0, 0.45, 0.75)
    return f"rgb({255 * red:.0f},{255 * green:.0f},{255 * blue:.0f})"
