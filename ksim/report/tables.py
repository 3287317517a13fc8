"""The report's numbers as CSV: one line per run, per group, and per step of a group's curve."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ksim.report.groups import ABSENT, Task
from ksim.report.runs import Run
from ksim.report.stats import Results


def runs_csv(runs: Sequence[Run], tasks: Sequence[Task]) -> bytes:
    """One line per run: `group` as in `groups_csv`; `counted`, whether it is part of the group's numbers."""
    place = {
        run: {"task": task.name, "group": index, "counted": run in group.counted}
        for task in tasks
        for index, group in enumerate(task.groups)
        for run in group.runs
    }
    return _csv(
        {
            "path": run.path,
            **place.get(run, {"task": None, "group": None, "counted": False}),
            "seed": run.seed,
            "state": run.state,
            "reason": run.reason,
            "step": run.step,
            "total_steps": run.total_steps,
            "wall_time_s": run.wall_time_s,
            "started_at": run.status and run.status.started_at,
            "ended_at": run.status and run.status.ended_at,
            "host": run.status and run.status.host,
            "commit": run.commit,
            "remarks": "; ".join(run.remarks),
            **run.numbers,
        }
        for run in runs
    )


def groups_csv(results: Sequence[Results]) -> bytes:
    """A line a group: what is particular to it, and each of its final numbers over its completed runs."""
    rows = []
    for task in results:
        for index, (group, finals) in enumerate(zip(task.task.groups, task.finals, strict=True)):
            row: dict[str, Any] = {
                "task": task.task.name,
                "group": index,
                "runs": len(group.runs),
                "seeds": len(group.counted),
                "completed": sum(run.completed for run in group.counted),
            }
            row |= {path: _plain(value) for path, value in group.values.items()}
            for name, estimate in finals.items():
                row |= {f"{name}/{part}": value for part, value in asdict(estimate).items()}
            rows.append(row)
    return _csv(rows)


def curves_csv(results: Sequence[Results]) -> bytes:
    """A line for each step of each group's curve of each metric."""
    rows = []
    for task in results:
        for index, curves in enumerate(task.curves):
            for metric, curve in curves.items():
                columns = asdict(curve)
                for values in zip(*columns.values(), strict=True):
                    place = {"task": task.task.name, "group": index, "metric": metric}
                    rows.append(place | dict(zip(columns, values, strict=True)))
    return _csv(rows)


def _csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The rows under all of their columns, in the order of the first appearance; empty where there is no value."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})
    return text.getvalue().encode(errors="surrogateescape")  # a path may be no text


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(value: Any) -> Any:
    """A config value in one cell: as it is, or as JSON; empty where the config has no such path."""
    if value is ABSENT:
        return None
    return value if isinstance(value, str | int | float) and value != "" else json.dumps(value, default=str)
