"""Means, interquartile means and their 95 % intervals over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ksim.report.groups import Group, Task
from ksim.report.runs import TRAINING

CONFIDENCE = 0.95
IQM_SEEDS = 4  # with fewer, a quarter is no whole run: nothing is cut off
_RESAMPLES = 9999
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A number over n seeds; NaN is what cannot be known from so few. Intervals end where the number has to.

    Attributes:
        mean, low, high: mean, with Student's t interval: exact where seeds scatter normally, and not too narrow for
            few seeds, as a bootstrap would be.
        iqm: interquartile mean: the mean without the highest and the lowest quarter, rounded down to whole seeds.
        iqm_low, iqm_high: its percentile bootstrap interval, from `IQM_SEEDS` seeds on.
    """

    n: int
    mean: float
    low: float
    high: float
    iqm: float
    iqm_low: float
    iqm_high: float


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve over seeds, as an `Estimate` at each step; all arrays (T,).

    Attributes:
        step: env steps.
        n: runs that had got to this step and logged a number before and after it.
    """

    step: np.ndarray
    n: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    iqm: np.ndarray


@dataclass(frozen=True, eq=False)
class Results:
    """What the groups of a task come to, in their order.

    Attributes:
        curves: by the keys of `TRAINING`, of all counted runs of a group, finished or not.
        finals: each of `Run.numbers` over the completed runs of a group.
    """

    task: Task
    curves: Sequence[Mapping[str, Curve]]
    finals: Sequence[Mapping[str, Estimate]]


def results(task: Task) -> Results:
    """All statistics of a task."""
    curves = [
        {key: curve([run.curve(key) for run in group.counted], *bounds(key)) for key in TRAINING}
        for group in task.groups
    ]
    return Results(task, curves, [_finals(group) for group in task.groups])


def bounds(name: str) -> tuple[float, float]:
    """What a number of `Run.numbers`, or of the log lines, cannot be less or more than."""
    name = name.removeprefix("eval/").removeprefix("train/")
    if name in ("falls", "gate/passed") or name.startswith("termination/"):  # shares
        return 0.0, 1.0
    return (0.0 if name == "episode_length_s" else -np.inf), np.inf


def estimate(values: ArrayLike, lowest: float = -np.inf, highest: float = np.inf) -> Estimate:
    """Of one number a seed, (n,), all finite and within bounds; n may be 0."""
    x_n = np.asarray(values, dtype=np.float64)
    n = len(x_n)
    if n == 0:
        return Estimate(0, NAN, NAN, NAN, NAN, NAN, NAN)
    _, mean, low, high = mean_interval(x_n[:, None], lowest, highest)
    iqm_low, iqm_high = iqm_interval(x_n)
    return Estimate(n, float(mean[0]), float(low[0]), float(high[0]), float(iqm(x_n)), iqm_low, iqm_high)


def mean_interval(
    x_nT: np.ndarray, lowest: float = -np.inf, highest: float = np.inf
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and the two ends of the mean's interval over the first axis, NaN left out; each (T,).

    mean ± t_{n-1} s / sqrt(n), with Student's t and the sample's standard deviation s (Student 1908). NaN where n
    is 0, and the ends where it is 1.
    """
    has_nT = np.isfinite(x_nT)
    n_T = has_nT.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # n = 0 and n = 1 are NaN, as they should be
        mean_T = np.where(has_nT, x_nT, 0.0).sum(axis=0) / n_T
        squares_T = np.where(has_nT, x_nT - mean_T, 0.0) ** 2
        error_T = np.sqrt(squares_T.sum(axis=0) / (n_T - 1) / n_T)
        half_T = stats.t.ppf((1 + CONFIDENCE) / 2, n_T - 1) * error_T
    return n_T, mean_T, np.clip(mean_T - half_T, lowest, highest), np.clip(mean_T + half_T, lowest, highest)


def iqm(x_n: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean along an axis, as Agarwal et al. (2021) recommend for few runs."""
    return np.asarray(stats.trim_mean(x_n, 0.25, axis=axis))


def iqm_interval(x_n: np.ndarray) -> tuple[float, float]:
    """The IQM's percentile bootstrap interval; the same one every time. NaN for fewer than `IQM_SEEDS` seeds."""
    if len(x_n) < IQM_SEEDS:
        return NAN, NAN
    result = stats.bootstrap(
        (x_n,),
        iqm,
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def curve(series: Sequence[tuple[np.ndarray, np.ndarray]], lowest: float = -np.inf, highest: float = np.inf) -> Curve:
    """Over the (steps, values) of some runs, at every step that one of them logged.

    Between its log lines a run is interpolated linearly; before its first and after its last one it does not count.
    """
    step_T = np.unique(np.concatenate([np.empty(0), *(x_T for x_T, _ in series)]))
    x_nT = np.full((len(series), len(step_T)), np.nan)
    for row_T, (x_T, y_T) in zip(x_nT, series, strict=True):
        if len(x_T):
            row_T[:] = np.interp(step_T, x_T, y_T, left=np.nan, right=np.nan)
    n_T, mean_T, low_T, high_T = mean_interval(x_nT, lowest, highest)
    iqm_T = np.full(len(step_T), np.nan)
    sorted_nT = np.sort(x_nT, axis=0)  # NaN go to the end
    for n in set(n_T.tolist()) - {0}:
        iqm_T[n_T == n] = iqm(sorted_nT[:n, n_T == n])
    return Curve(step_T, n_T, mean_T, low_T, high_T, iqm_T)


def _finals(group: Group) -> dict[str, Estimate]:
    found: dict[str, list[float]] = {}
    for run in group.counted:
        if run.completed:
            for name, value in run.numbers.items():
                found.setdefault(name, []).append(value)
    return {name: estimate(values, *bounds(name)) for name, values in found.items()}
