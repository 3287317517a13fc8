"""Compare runs: ``python -m ksim.report <folder>...``; a page, plots and tables about all the runs in some folders."""

import os
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ksim.config import options
from ksim.errors import ConfigError, KsimError
from ksim.report import figure, groups, page, runs, stats, tables
from ksim.report.stats import Results
from ksim.store import files
from ksim.system.entry import entry

USAGE = """\
usage: python -m ksim.report <folder>... [out=<folder>]

Finds every run in the folders, at any depth, and writes how they compare: report.html, one page with everything in
it; curves_<task>.png; and runs.csv, groups.csv and curves.csv. Runs that differ in the seed alone are a group, with
means, interquartile means and 95 % intervals over its seeds. Runs that failed, were stopped, or died without a word
are shown as such. The runs may still be training; nothing in them is touched.

options:
  out=<folder>          where to write; without it, `report` in the first folder

examples:
  python -m ksim.report runs/kbot_standing
  python -m ksim.report runs/sweeps/2026-01-31_12-00-00
  python -m ksim.report runs/kbot_standing runs/sweeps out=/tmp/report
"""


_LABEL = 60  # characters


@dataclass(frozen=True)
class Options:
    """The options; see `USAGE`."""

    out: str = ""


def main(argv: Sequence[str]) -> None:
    """Report as the command line asks.

    Raises:
        KsimError: a mistake of the user's, there is no run, or the report cannot be written.
    """
    if {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        return
    # A sweep's folders have `=` in their names, but no key of an option before the first one.
    given = [a for a in argv if "=" in a and a.partition("=")[0].isidentifier()]
    folders = [Path(a) for a in argv if a not in given]
    chosen, _ = options.parse(Options, given)
    for folder in folders:
        if str(folder).startswith("-"):
            raise ConfigError(f"{folder}: is not an option; see --help")
    if not folders:
        raise ConfigError("which runs? write: python -m ksim.report <folder>..., such as runs/<task>; see --help")
    remarks: list[str] = []
    found = [runs.read(path) for path in runs.find(folders, remarks.append)]
    if not found:
        raise KsimError(f"there is no run in {', '.join(map(str, folders))}")
    results = [stats.results(task) for task in groups.grouped(found)]
    out = Path(chosen.out) if chosen.out else folders[0] / "report"
    written = write(out, found, results, remarks)
    show(found, results, remarks, written)


def write(out: Path, found: Sequence[runs.Run], results: Sequence[Results], remarks: Sequence[str]) -> list[Path]:
    """Write the report's files into a folder, each whole or not at all; the page is the first of those returned.

    Raises:
        KsimError: they cannot be written.
    """
    plots = {result.task.name: figure.draw(result) for result in results}
    pictures = {f"curves_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png": plot for name, plot in plots.items()}
    contents: Mapping[str, bytes] = {
        "report.html": page.page(found, results, plots, remarks),
        "runs.csv": tables.runs_csv(found, [result.task for result in results]),
        "groups.csv": tables.groups_csv(results),
        "curves.csv": tables.curves_csv(results),
        **pictures,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            files.write_atomic(out / name, data)
    except OSError as error:
        raise KsimError(f"{out} cannot be written: {error.strerror}; choose another folder with out=<folder>") from None
    return [out / name for name in contents]


def show(
    found: Sequence[runs.Run], results: Sequence[Results], remarks: Sequence[str], written: Sequence[Path]
) -> None:
    """Print the groups, what is wrong, and where the files are."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    counts = Counter(run.state for run in found)
    console.print(f"{len(found)} runs: {', '.join(f'{count} {state}' for state, count in counts.most_common())}")
    for result in results:
        console.print(table(result))
    for run in found:
        if not run.completed:
            reason = next(iter(run.reason.splitlines()), "")
            console.print(f"{run.state}: {run.path}{f': {reason}' if reason else ''}")
        for remark in run.remarks:
            console.print(f"{run.path}: {remark}")
    for remark in remarks:
        console.print(remark)
    for path in written:
        console.print(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))


def table(results: Results) -> Table:
    """A task's groups for a person."""
    rows = Table(title=results.task.name)
    rows.add_column("group")
    gated = any("gate/passed" in finals for finals in results.finals)
    for name in ("seeds", "return", "95 % interval", "IQM", "falls", *(["pass the gate"] if gated else [])):
        rows.add_column(name, justify="right", no_wrap=True)
    for index, (group, finals) in enumerate(zip(results.task.groups, results.finals, strict=True)):
        completed = sum(run.completed for run in group.counted)
        label = textwrap.shorten(results.task.label(group), _LABEL, placeholder=" …")
        cells = [f"#{index} {label}", f"{completed} of {len(group.counted)}"]
        if (value := finals.get("eval/return", finals.get("train/return"))) is not None:
            falls = finals.get("eval/falls", finals.get("train/falls"))
            interval = f"{value.low:.4g} to {value.high:.4g}" if value.low < value.high else ""
            cells += [f"{value.mean:.4g}", interval, f"{value.iqm:.4g}", "" if falls is None else f"{falls.mean:.2%}"]
            if gated:
                cells.append(page.passed(finals.get("gate/passed", stats.estimate([]))))
        rows.add_row(*cells)
    return rows


if __name__ == "__main__":
    entry(main)
