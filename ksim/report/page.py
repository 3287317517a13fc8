"""The report as one HTML page that needs nothing but itself: no script, no network, images inside."""

import base64
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import isnan
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ksim import __version__
from ksim.report import figure, stats
from ksim.report.groups import Group, Task, shown
from ksim.report.runs import Run
from ksim.report.stats import Results
from ksim.training.progress import duration

# What the groups' table shows: key of the final numbers, title, factor, number format.
_COLUMNS = (
    ("eval/return", "Return", 1.0, ".4g"),
    ("eval/episode_length_s", "Episode length (s)", 1.0, ".4g"),
    ("eval/falls", "Falls (%)", 100.0, ".3g"),
    ("gate/passed", "Pass the gate", 1.0, ""),
    ("gate/step", "Env steps to the gate", 1.0, ",.0f"),
    ("gate/time_s", "Time to the gate (s)", 1.0, ",.0f"),
    ("train/return", "Return in training", 1.0, ".4g"),
)
_CELL = 60  # characters
_REASON = 400
_MOST_PATHS = 4  # columns of a table that are not numbers
_NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table, as the template draws it.

    Attributes:
        text: what it says.
        kind: its style: `n` a number, `c` code, `w` a long text.
        small: a second line.
        title: the whole text where it is cut.
        badge: the style of a run's state.
        mark, color: a group's number before the text, and the colour of its curve.
    """

    text: str = ""
    kind: str = ""
    small: str = ""
    title: str = ""
    badge: str = ""
    mark: str = ""
    color: str = ""


@dataclass(frozen=True)
class Table:
    """The header's cells and the rows'."""

    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]


def page(runs: Sequence[Run], results: Sequence[Results], plots: Mapping[str, bytes], remarks: Sequence[str]) -> bytes:
    """The page.

    Args:
        runs: all that were found.
        results: the tasks of those with a readable config.
        plots: task -> PNG.
        remarks: what else went wrong, besides what the runs' own remarks say.
    """
    count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    folder = os.path.commonpath([run.path.parent.absolute() for run in runs])
    names = {run: os.path.relpath(run.path, folder) for run in runs}
    tasks = [
        {
            "name": result.task.name,
            "groups": _groups(result),
            "differences": _differences(result.task) if len(result.task.paths) > _MOST_PATHS else None,
            "plot": base64.b64encode(plots[result.task.name]).decode(),
        }
        for result in results
    ]
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("page.html.jinja").render(
        title=f"ksim report: {', '.join(result.task.name for result in results) or 'no results'}",
        about=f"{count} in {folder}, as of {datetime.now():%Y-%m-%d %H:%M}, ksim {__version__}",
        states=Counter(run.state for run in runs).most_common(),
        not_completed=_not_completed([run for run in runs if not run.completed], names),
        tasks=tasks,
        all_runs=_all_runs(runs, names, [result.task for result in results]),
        remarks=[f"{names[run]}: {remark}" for run in runs for remark in run.remarks] + list(remarks),
        iqm_seeds=stats.IQM_SEEDS,
    )
    return html.encode()


def _not_completed(runs: Sequence[Run], names: Mapping[Run, str]) -> Table | None:
    if not runs:
        return None
    rows = [[_state(run), Cell(names[run], "c"), _progress(run), Cell(_cut(run.reason, _REASON), "w")] for run in runs]
    return Table([Cell("State"), Cell("Run"), Cell("Env steps", "n"), Cell("Why")], rows)


def _groups(results: Results) -> Table:
    task = results.task
    paths = task.paths if len(task.paths) <= _MOST_PATHS else ()  # more are a table of their own
    columns = [column for column in _COLUMNS if any(column[0] in finals for finals in results.finals)]
    head = [Cell("Group"), *map(Cell, paths), Cell("Seeds", "n"), Cell("Training time", "n")]
    for _, title, _, _ in columns:
        head += [Cell(title, "n"), Cell("IQM", "n")] if title == "Return" else [Cell(title, "n")]
    rows = []
    for index, (group, finals) in enumerate(zip(task.groups, results.finals, strict=True)):
        row = [_mark(index), *(_value(group.values[path]) for path in paths), _seeds(group), _time(group)]
        for key, title, factor, form in columns:
            found = finals.get(key, stats.estimate([]))
            if key == "gate/passed":
                row.append(Cell(passed(found), "n"))
                continue
            row.append(_interval(found.mean, found.low, found.high, factor, form))
            if title == "Return":
                row.append(_interval(found.iqm, found.iqm_low, found.iqm_high, factor, form))
        rows.append(row)
    return Table(head, rows)


def passed(share: stats.Estimate) -> str:
    """How many seeds pass the gate, of those of which it is known."""
    return f"{share.mean * share.n:.0f} of {share.n}" if share.n else _NONE


def _differences(task: Task) -> Table:
    head = [Cell("Config"), *(_mark(index) for index in range(len(task.groups)))]
    rows = [[Cell(path, "c"), *(_value(group.values[path]) for group in task.groups)] for path in task.paths]
    return Table(head, rows)


def _all_runs(runs: Sequence[Run], names: Mapping[Run, str], tasks: Sequence[Task]) -> Table:
    place = {run: (task, index) for task in tasks for index, group in enumerate(task.groups) for run in group.runs}
    head = [Cell("Run"), Cell("State"), Cell("Group"), Cell("Seed", "n"), Cell("Env steps", "n")]
    head += [Cell("Time", "n"), Cell("Return", "n"), Cell("Falls (%)", "n"), Cell("Code")]
    rows = []
    for run in runs:
        label = Cell(_NONE)
        if run in place:
            task, index = place[run]
            counts = run in task.groups[index].counted
            small = "" if counts else "not counted: another run has this seed"
            label = replace(_mark(index), text=task.name, small=small)
        rows.append(
            [
                Cell(names[run], "c"),
                _state(run),
                label,
                Cell(_NONE if run.seed is None else str(run.seed), "n"),
                _progress(run),
                Cell(_NONE if run.wall_time_s is None else duration(run.wall_time_s), "n"),
                _number(run.numbers.get("eval/return"), 1.0, ".4g"),
                _number(run.numbers.get("eval/falls"), 100.0, ".3g"),
                Cell(run.commit or _NONE, "c"),
            ]
        )
    return Table(head, rows)


def _mark(index: int) -> Cell:
    """A group's number, with the colour of its curve."""
    return Cell(mark=f"#{index}", color=figure.style_of(index)[1])


def _seeds(group: Group) -> Cell:
    completed, count = sum(run.completed for run in group.counted), len(group.counted)
    versions = {run.commit for run in group.counted if run.commit}
    small = f"{len(versions)} versions of the code" if len(versions) > 1 else ""
    return Cell(str(completed) if completed == count else f"{completed} of {count}", "n", small)


def _time(group: Group) -> Cell:
    times = [run.wall_time_s for run in group.counted if run.completed and run.wall_time_s is not None]
    return Cell(duration(sum(times) / len(times)) if times else _NONE, "n")


def _interval(value: float, low: float, high: float, factor: float, form: str) -> Cell:
    # No interval where it is NaN, nor where all seeds are equal, which says nothing about the next one.
    small = f"{low * factor:{form}} to {high * factor:{form}}" if low < high else ""
    return replace(_number(value, factor, form), small=small)


def _number(value: float | None, factor: float, form: str) -> Cell:
    return Cell(_NONE if value is None or isnan(value) else f"{value * factor:{form}}", "n")


def _progress(run: Run) -> Cell:
    is_partial = not run.completed and run.total_steps
    return Cell(f"{run.step:,}", "n", f"of {run.total_steps:,}" if is_partial else "")


def _state(run: Run) -> Cell:
    return Cell(run.state, badge=run.state.replace(" ", "-"))


def _value(value: object) -> Cell:
    text = shown(value)
    return Cell(_cut(text), title=text if len(text) > _CELL else "")


def _cut(text: str, length: int = _CELL) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
