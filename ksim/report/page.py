"""The report as one HTML page that needs nothing but itself: no script, no network, images inside."""

import base64
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isnan
from xml.etree.ElementTree import Element

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
    ("train/return", "Return in training", 1.0, ".4g"),
)
_CELL = 60  # characters
_REASON = 400
_MOST_PATHS = 4  # columns of a table that are not numbers

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: #1f2933; line-height: 1.45;
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 0 0 10px; }
.sub, .note { color: #52606d; }
.note { font-size: 13.5px; max-width: 110ch; margin: 8px 0 0; }
.mark { white-space: nowrap; font-weight: 600; }
.mark i { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px; }
section { background: #fff; border: 1px solid #dfe4e9; border-radius: 8px; padding: 20px 22px; margin-top: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { padding: 7px 12px; text-align: left; vertical-align: top; border-bottom: 1px solid #e9edf1; }
th { font-weight: 600; color: #52606d; border-bottom: 2px solid #cfd6dd; vertical-align: bottom; white-space: nowrap; }
tbody tr:last-child td { border-bottom: none; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.c { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 12.5px;
  overflow-wrap: anywhere; min-width: 14ch; }
td.c:first-child { min-width: 40ch; }
td.w { min-width: 24ch; }
small { display: block; color: #66737f; font-size: 12px; white-space: nowrap; }
img { display: block; width: 100%; height: auto; margin-top: 18px; }
.badge { display: inline-block; padding: 1px 9px; border-radius: 10px; font-size: 12.5px; white-space: nowrap;
  background: #e4e7eb; color: #3e4c59; }
.completed { background: #dcf3e4; color: #0f5c33; }
.running { background: #dbeafe; color: #1c4587; }
.failed, .dead, .unknown { background: #fde2e1; color: #8f1d18; }
.interrupted, .preempted { background: #fdf0cf; color: #7a4b00; }
.badges { display: flex; gap: 8px; margin-top: 10px; flex-wrap: wrap; }
ul { margin: 0; padding-left: 20px; }
"""


def page(runs: Sequence[Run], results: Sequence[Results], plots: Mapping[str, bytes], remarks: Sequence[str]) -> bytes:
    """The page.

    Args:
        runs: all that were found.
        results: the tasks of those with a readable config.
        plots: task -> PNG.
        remarks: what else went wrong, besides what the runs' own remarks say.
    """
    states = Counter(run.state for run in runs)
    badges = [_badge(state, f"{count} {state}") for state, count in states.most_common()]
    count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    folder = os.path.commonpath([run.path.parent.absolute() for run in runs])
    names = {run: os.path.relpath(run.path, folder) for run in runs}
    about = f"{count} in {folder}, as of {datetime.now():%Y-%m-%d %H:%M}, ksim {__version__}"
    body = _tag("main", _tag("h1", "Training report"), _tag("p", about, **{"class": "sub"}))
    body.append(_tag("div", *badges, **{"class": "badges"}))
    if troubled := [run for run in runs if not run.completed]:
        body.append(_not_completed(troubled, names))
    body.extend(_task(result, plots[result.task.name]) for result in results)
    body.append(_all_runs(runs, names, [result.task for result in results]))
    if named := [f"{names[run]}: {remark}" for run in runs for remark in run.remarks] + list(remarks):
        items = [_tag("li", text) for text in named]
        body.append(_tag("section", _tag("h2", "Damaged or missing"), _tag("ul", *items)))
    body.append(_notes())
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("link", rel="icon", href="data:,"),  # else a browser asks a server for one
        _tag("title", f"ksim report: {', '.join(result.task.name for result in results) or 'no results'}"),
        _tag("style", _STYLE),
    )
    html = _tag("html", head, _tag("body", body), lang="en")
    return b"<!DOCTYPE html>\n" + ET.tostring(html, encoding="utf-8", method="html") + b"\n"


def _not_completed(runs: Sequence[Run], names: Mapping[Run, str]) -> Element:
    rows = []
    for run in runs:
        why = _cell(_cut(run.reason, _REASON), "w")
        rows.append([_badge(run.state), _code(names[run]), _progress(run), why])
    table = _table([_cell("State"), _cell("Run"), _cell("Env steps", "n"), _cell("Why")], rows)
    return _tag("section", _tag("h2", "Not completed"), table)


def _task(results: Results, plot: bytes) -> Element:
    task = results.task
    paths = task.paths if len(task.paths) <= _MOST_PATHS else ()  # more are a table of their own
    columns = [column for column in _COLUMNS if any(column[0] in finals for finals in results.finals)]
    head = [_cell("Group"), *map(_cell, paths), _cell("Seeds", "n"), _cell("Training time", "n")]
    for _, title, _, _ in columns:
        head += [_cell(title, "n"), _cell("IQM", "n")] if title == "Return" else [_cell(title, "n")]
    rows = []
    for index, (group, finals) in enumerate(zip(task.groups, results.finals, strict=True)):
        row = [_tag("td", _mark(index)), *(_value(group.values[path]) for path in paths), _seeds(group), _time(group)]
        for key, title, factor, form in columns:
            found = finals.get(key, stats.estimate([]))
            row.append(_interval(found.mean, found.low, found.high, factor, form))
            if title == "Return":
                row.append(_interval(found.iqm, found.iqm_low, found.iqm_high, factor, form))
        rows.append(row)
    image = _tag("img", src="data:image/png;base64," + base64.b64encode(plot).decode(), alt=f"Curves of {task.name}")
    section = _tag("section", _tag("h2", task.name), _table(head, rows))
    if len(task.paths) > len(paths):
        section.extend([_tag("h3", "What differs"), _differences(task)])
    section.append(image)
    return section


def _differences(task: Task) -> Element:
    head = [_cell("Config"), *(_tag("td", _mark(index)) for index in range(len(task.groups)))]
    return _table(head, [[_code(path), *(_value(group.values[path]) for group in task.groups)] for path in task.paths])


_NOTES = (
    "A group is made of the runs whose configs differ in the seed alone, or in what cannot change the result: logging, "
    "checkpoints, evaluation, threads. Of runs with the same seed, one counts.",
    "A group's numbers are those of its completed runs: of the deterministic policy at the end of the training, but "
    "for “in training”, the last log line, with exploration noise. Below a mean stands its 95 % interval over seeds "
    f"(Student's t). IQM is the interquartile mean; below {stats.IQM_SEEDS} seeds it is the mean, from then on it has "
    "a bootstrap interval.",
    "Curves are the training's, with all of a group's runs: a thick line is their mean, dashed where some of them have "
    "no number, a band its 95 % interval, a thin line one run.",
    "Training time is without compiling and evaluating. A + behind the code's commit: the work tree differed from it.",
)


def _notes() -> Element:
    return _tag("section", _tag("h2", "How to read this"), *(_tag("p", note, **{"class": "note"}) for note in _NOTES))


def _all_runs(runs: Sequence[Run], names: Mapping[Run, str], tasks: Sequence[Task]) -> Element:
    place = {run: (task, index) for task in tasks for index, group in enumerate(task.groups) for run in group.runs}
    head = [_cell("Run"), _cell("State"), _cell("Group"), _cell("Seed", "n"), _cell("Env steps", "n")]
    head += [_cell("Time", "n"), _cell("Return", "n"), _cell("Falls (%)", "n"), _cell("Code")]
    rows = []
    for run in runs:
        label = _tag("td", "–")
        if run in place:
            task, index = place[run]
            label = _tag("td", _mark(index), f" {task.name}")
            if run not in task.groups[index].counted:
                label.append(_tag("small", "not counted: another run has this seed"))
        rows.append(
            [
                _code(names[run]),
                _badge(run.state),
                label,
                _cell("–" if run.seed is None else str(run.seed), "n"),
                _progress(run),
                _cell("–" if run.wall_time_s is None else duration(run.wall_time_s), "n"),
                _number(run.numbers.get("eval/return"), 1.0, ".4g"),
                _number(run.numbers.get("eval/falls"), 100.0, ".3g"),
                _cell(run.commit or "–", "c"),
            ]
        )
    return _tag("section", _tag("h2", "All runs"), _table(head, rows))


def _mark(index: int) -> Element:
    """A group's number, with the colour of its curve."""
    dot = _tag("i", style=f"background: {figure.style_of(index)[1]}")
    return _tag("span", dot, f"#{index}", **{"class": "mark"})


def _seeds(group: Group) -> Element:
    completed, count = sum(run.completed for run in group.counted), len(group.counted)
    cell = _cell(str(completed) if completed == count else f"{completed} of {count}", "n")
    versions = {run.commit for run in group.counted if run.commit}
    if len(versions) > 1:
        cell.append(_tag("small", f"{len(versions)} versions of the code"))
    return cell


def _time(group: Group) -> Element:
    times = [run.wall_time_s for run in group.counted if run.completed and run.wall_time_s is not None]
    return _cell(duration(sum(times) / len(times)) if times else "–", "n")


def _interval(value: float, low: float, high: float, factor: float, form: str) -> Element:
    cell = _number(value, factor, form)
    if low < high:  # not where it is NaN, nor where all seeds are equal, which says nothing about the next one
        cell.append(_tag("small", f"{low * factor:{form}} to {high * factor:{form}}"))
    return cell


def _number(value: float | None, factor: float, form: str) -> Element:
    return _cell("–" if value is None or isnan(value) else f"{value * factor:{form}}", "n")


def _progress(run: Run) -> Element:
    cell = _cell(f"{run.step:,}", "n")
    if not run.completed and run.total_steps:
        cell.append(_tag("small", f"of {run.total_steps:,}"))
    return cell


def _badge(state: str, text: str | None = None) -> Element:
    badge = _tag("span", text or state, **{"class": f"badge {state.replace(' ', '-')}"})
    return badge if text else _tag("td", badge)


def _value(value: object) -> Element:
    text = shown(value)
    return _tag("td", _cut(text), **({"title": text} if len(text) > _CELL else {}))


def _cut(text: str, length: int = _CELL) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _code(text: str) -> Element:
    return _cell(text, "c")


def _cell(text: str, kind: str = "") -> Element:
    return _tag("td", text, **({"class": kind} if kind else {}))


def _table(head: Sequence[Element], rows: Sequence[Sequence[Element]]) -> Element:
    for cell in head:
        cell.tag = "th"
    table = _tag("table", _tag("thead", _tag("tr", *head)), _tag("tbody", *(_tag("tr", *row) for row in rows)))
    return _tag("div", table, **{"class": "scroll"})


def _tag(tag: str, /, *children: Element | str, **attributes: str) -> Element:
    """An element; texts are escaped when the tree is written."""
    element = Element(tag, attributes)
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element
