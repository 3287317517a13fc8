"""The run directory: where everything of one training lies, how it is found again, and who owns it."""

import contextlib
import logging
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ksim.errors import KsimError
from ksim.store import files, lock
from ksim.system import foreign

log = logging.getLogger(__name__)

_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:_(\d+))?$")


@dataclass(frozen=True)
class RunDir:
    """Names of the files in one run directory. Nothing is made here but by `claim`."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The resolved config, frozen at the start."""
        return self.path / "config.yaml"

    @property
    def status_path(self) -> Path:
        """What became of the run, and how far it got."""
        return self.path / "status.json"

    @property
    def metrics_path(self) -> Path:
        """One line for each log interval."""
        return self.path / "metrics.jsonl"

    @property
    def provenance_path(self) -> Path:
        """The commit, versions and device that it was made with."""
        return self.path / "provenance.json"

    @property
    def log_path(self) -> Path:
        """What the training said."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """One folder for each."""
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        """Drawn from the metrics."""
        return self.path / "plots"

    @property
    def eval(self) -> Path:
        """One folder for each evaluation."""
        return self.path / "eval"

    @property
    def export(self) -> Path:
        """The policy as ONNX."""
        return self.path / "export"

    @property
    def nan_guard(self) -> Path:
        """Envs that diverged, to be replayed; only where there were any."""
        return self.path / "nan_guard"

    def remove(self) -> None:
        """Takes the directory away with all that is in it, and the task's folder if it was the only one there."""
        files.remove_tree(self.path)
        with contextlib.suppress(OSError):
            files.remove_empty(self.path.parent)

    def update_latest(self) -> None:
        """Points the link `latest` beside this directory to the newest run there, which need not be this one.

        Where links cannot be made, that is only a log line. A job of a sweep has none: it is found by its overrides.
        """
        if not _STAMP.match(self.path.name):
            return
        folder = self.path.parent
        link, temp = folder / "latest", folder / f".latest-{os.getpid()}-{self.path.name}"
        try:
            # Another run may have begun between the look and the rename; whoever comes last sees both.
            while (runs := list_runs(folder)) and _target(link) != runs[-1].name:
                os.symlink(runs[-1].name, temp, target_is_directory=True)
                files.rename(temp, link)
        except OSError as error:
            log.info("no link %s: %s", link, error)
            with contextlib.suppress(OSError):
                files.remove(temp)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Owns the run directory for as long as the context is open; the system frees it when the process dies.

        Raises InUse with the pid and host of the owner if there is one, in this process or another; KsimError where
        the directory cannot be used.
        """
        return lock.hold(self.path)


def claim(runs_dir: str | os.PathLike[str], task_name: str, now: datetime | None = None) -> RunDir:
    """Makes `<runs_dir>/<task>/<YYYY-MM-DD_HH-MM-SS>` for the caller alone; `_1`, `_2`, ... where it is taken.

    A slash in the task's name becomes `_`, so that every run lies two levels deep. Raises KsimError where the
    name is no name for a folder or the folder cannot be made.
    """
    name = task_name.replace(os.sep, "_")
    if not name or name.startswith(".") or name in ("latest", "sweeps"):
        raise KsimError(f"{task_name!r} cannot be a task's name: its runs would lie in {Path(runs_dir) / name}")
    return RunDir(claim_folder(Path(runs_dir).absolute() / name / files.stamp(now)))


def claim_folder(wanted: Path) -> Path:
    """Makes the folder `wanted` for the caller alone; with `_1`, `_2`, ... at the end of its name where it is taken.

    Raises KsimError where it cannot be made.
    """
    try:
        files.make_dirs(wanted.parent)
        number = 0
        while True:
            path = wanted.with_name(f"{wanted.name}_{number}") if number else wanted
            try:
                files.make_dir(path)  # the system gives a name to one process only
                files.fsync_dir(path.parent)
                return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise KsimError(f"cannot make a run directory in {wanted.parent}: {error.strerror}") from None


def is_run_dir(path: Path) -> bool:
    """Whether `path` holds a run, that is its frozen config."""
    return (path / "config.yaml").is_file()


def list_runs(task_dir: Path) -> list[Path]:
    """The run directories in `<runs_dir>/<task>`, in the order in which they were started."""
    return sorted((path for path in _folders(task_dir) if is_run_dir(path)), key=_started)


def open(spec: str | os.PathLike[str], runs_dir: str | os.PathLike[str] = "runs") -> RunDir:
    """The run directory that `spec` names, with links resolved.

    `spec` is a path (also one below `runs_dir`), `latest` (the newest run of all tasks; jobs of sweeps do not
    count), or `<task>/latest`, `runs/<task>/latest`. The newest is the one that was started last: a resume makes no
    run newer. Raises KsimError that lists the runs nearby if there is none.
    """
    root = Path(runs_dir).absolute()
    if str(spec) == "latest":
        runs = sorted((run for task in _folders(root) for run in list_runs(task)), key=_started)
        if not runs:
            raise KsimError(f"no run in {root} yet")
        return RunDir(runs[-1].resolve())
    given = Path(spec).expanduser()
    for path in (given.absolute(), root / given):
        if path.name == "latest" and (runs := list_runs(path.parent)):
            return RunDir(runs[-1].resolve())  # the link may be missing, or point to a run that was removed
        if is_run_dir(path):
            return RunDir(path.resolve())
    raise KsimError(_not_found(given, root))


def _not_found(given: Path, root: Path) -> str:
    path = given.absolute()
    if not path.exists() and (root / given).exists():
        path = root / given
    for parent in path.parents:
        if is_run_dir(parent):
            return f"{given} lies in a run directory, but is not one; did you mean {parent}?"
    what = "is not a run directory (it has no config.yaml)" if path.exists() else "does not exist"
    near = next((p for p in (path, *path.parents) if p.is_dir()), root)
    if near in (path, path.parent) or root in (near, *near.parents):
        runs = list_runs(near) or [run for task in _folders(near) for run in list_runs(task)]
    else:
        runs = []
    if not runs:
        runs = [run for task in _folders(root) for run in list_runs(task)]
    if not runs:
        return f"{given} {what}; there is no run in {root} yet"
    newest = [str(run) for run in sorted(runs, key=_started)[-5:]]
    return f"{given} {what}; the newest runs nearby: " + ", ".join(newest)


def _folders(path: Path) -> list[Path]:
    try:
        return [p for p in path.iterdir() if not p.name.startswith(".") and not p.is_symlink() and p.is_dir()]
    except OSError:
        return []


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _started(run: Path) -> tuple[float, int, str]:
    """Sorts by when runs were started; those of the same second by the number in their names.

    The time is that of `status.json`, which no resume changes; names are in local time, which a clock that is put
    back repeats. Where it is missing the name has to do, or the config's age in a directory that was renamed.
    """
    match = _STAMP.match(run.name)
    number = int(match[2] or 0) if match else 0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        when = datetime.fromisoformat(foreign.parse_json((run / "status.json").read_bytes())["started_at"])
        return when.timestamp(), number, run.name
    with contextlib.suppress(ValueError, OverflowError):
        if match:
            return files.from_stamp(match[1]).timestamp(), number, run.name
    try:
        return (run / "config.yaml").stat().st_mtime, number, run.name
    except OSError:
        return 0.0, number, run.name
