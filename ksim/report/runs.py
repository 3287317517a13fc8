"""Runs as their directories tell them, whatever of it is there: nothing that is missing or damaged ends a report."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ksim.config.words import one_line
from ksim.errors import ConfigError, KsimError
from ksim.store import metrics, status
from ksim.store.run_dir import RunDir
from ksim.store.status import Status
from ksim.system import foreign

TRAINING = ("return", "episode_length_s", "falls")  # keys of the log lines that are reported
_MARKS = {"status.json", "metrics.jsonl", "provenance.json", ".hydra"}
_NOT_THE_POLICYS = {"episodes", "seed", "falls_low", "falls_high"}  # how it was evaluated, and over episodes
_NOT_YAML = (yaml.YAMLError, ValueError)  # ValueError: a date that is none
_SILENT = timedelta(minutes=15)  # far above a log interval; compiling takes minutes at worst

_REASONS = {
    "interrupted": "ended by Ctrl-C or a signal",
    "preempted": "its place on the cluster was taken away",
    "dead": "its process is gone and left no word: killed, or the machine went down",
    "not started": "there is no status.json",
    "unknown": "its status.json is missing",
}


@dataclass(frozen=True, eq=False)
class Run:
    """What is left of one run.

    Attributes:
        path: its directory, as it was found.
        state: that of `status.json`; `dead` where it says running and its process is gone; `not started` or
            `unknown` where there is no such file, or it cannot be read.
        reason: why it stands so, in words; empty for a completed run.
        config: the frozen config as plain mappings, with at least `name` and `seed`; None where it cannot be read.
            It is not checked: runs of other versions of ksim, or with terms that are not at hand, are compared too.
        lines: the log lines, by rising `step`.
        evaluation: numbers of the deterministic policy at the end, as in `ksim.evaluation.evaluate.Result`; empty
            without one.
        passes_gate: whether its last policy passes the task's gate, by the newest evaluation of that which changed
            nothing; None where it was not played.
        wall_time_s: seconds of training, by the last log line.
        commit: of ksim's code, shortened, with a `+` where the work tree differed from it; None if unknown.
        remarks: what is damaged or missing.
    """

    path: Path
    state: str
    reason: str
    config: Mapping[str, Any] | None
    status: Status | None
    lines: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, float]
    passes_gate: bool | None
    commit: str | None
    remarks: Sequence[str]

    @property
    def completed(self) -> bool:
        """Whether it got to its end."""
        return self.state == "completed"

    @property
    def seed(self) -> int | None:
        """The seed of its training."""
        return None if self.config is None else int(self.config["seed"])

    @property
    def step(self) -> int:
        """Env steps that it got to."""
        return _step(self.lines, self.status)

    @property
    def total_steps(self) -> int | None:
        """Env steps that it was to do."""
        return _at(self.config, "algo", "total_steps", kind=int)

    @property
    def wall_time_s(self) -> float | None:
        """Seconds of training, as of its last line of metrics."""
        return number(self.lines[-1].get("wall_time_s")) if self.lines else None

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, both (T,), of the log lines that have a finite number for `key`."""
        points = [(line["step"], y) for line in self.lines if (y := number(line.get(key))) is not None]
        x_T, y_T = np.array(points, dtype=np.float64).reshape(-1, 2).T
        return x_T, y_T

    @property
    def numbers(self) -> dict[str, float]:
        """How it ended: `eval/<name>` as the evaluation has them, `train/<name>` the last ones of the log lines."""
        found = {f"eval/{name}": x for name, x in self.evaluation.items() if name not in _NOT_THE_POLICYS}
        for key in TRAINING:
            values = (number(line.get(key)) for line in reversed(self.lines))
            if (last := next((value for value in values if value is not None), None)) is not None:
                found[f"train/{key}"] = last
        if self.passes_gate is not None:
            found["gate/passed"] = float(self.passes_gate)
        if self.status is not None and self.status.gate is not None:  # the training ended there
            found |= {f"gate/{name}": float(x) for name, x in self.status.gate.items()}
        return found


def find(folders: Sequence[Path], warn: Callable[[str], None]) -> list[Path]:
    """The run directories in some folders, at any depth, in natural order; each once.

    Links below the folders are not followed, so `latest` doubles no run. `warn` is told of folders that cannot be
    read.

    Raises:
        KsimError: a folder does not exist.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: {'is not a folder' if folder.exists() else 'does not exist'}")
        for path in _walk(folder, warn):
            found.setdefault(path.resolve(), path)
    return sorted(found.values(), key=lambda path: natural(str(path)))


def natural(text: str) -> list[Any]:
    """A key that sorts `2_x` before `10_x`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with contextlib.suppress(OverflowError):  # JSON's integers have no end
        return float(value) if math.isfinite(value) else None
    return None


def read(path: Path) -> Run:
    """Everything that a run directory tells."""
    run = RunDir(path)
    remarks: list[str] = []

    def remark(text: str) -> None:
        remarks.append(text.replace(f"{path}{os.sep}", ""))

    config = _read_config(run.config_path, remark)
    lines = _read_lines(run.metrics_path, remark)
    state, reason, found = _read_status(run.status_path, bool(lines), remark)
    if state == "completed" and not lines:
        remark("metrics.jsonl is missing or has no line")
    expected = state == "completed" and _at(config, "eval", "episodes", kind=int) != 0
    evaluation = _read_evaluation(run.eval / "final" / "metrics.json", _step(lines, found), expected, remark)
    passes_gate = _read_gate(run, config, _step(lines, found), remark)
    if passes_gate is None and found is not None and found.gate is not None:
        passes_gate = True
    commit = _read_commit(run.provenance_path)
    return Run(path, state, reason, config, found, lines, evaluation, passes_gate, commit, remarks)


def _walk(folder: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        warn(f"{error.filename} cannot be read: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=unreadable):
        path = Path(place)
        if not _MARKS.isdisjoint([*folders, *names]) or ("config.yaml" in names and _is_config(path / "config.yaml")):
            folders.clear()
            yield path
        folders[:] = [name for name in folders if not name.startswith(".")]


def _is_config(path: Path) -> bool:
    """Whether this is a frozen config and not the one that configs are composed from."""
    with contextlib.suppress(OSError, *_NOT_YAML):
        found = foreign.parse_yaml(path.read_bytes())
        return isinstance(found, dict) and {"name", "task", "algo"} <= set(found)
    return False


def _read_config(path: Path, remark: Callable[[str], None]) -> Mapping[str, Any] | None:
    try:
        found = foreign.parse_yaml(path.read_bytes())
    except FileNotFoundError:
        remark("config.yaml is missing")
    except OSError as error:
        remark(f"config.yaml cannot be read: {error.strerror}")
    except _NOT_YAML as error:
        remark(f"config.yaml is damaged: {one_line(error)}")
    else:
        if isinstance(found, dict) and isinstance(found.get("name"), str) and type(found.get("seed")) is int:
            return found
        remark("config.yaml is damaged: it has no name or no seed")
    return None


def _read_lines(path: Path, remark: Callable[[str], None]) -> list[Mapping[str, Any]]:
    try:
        found = metrics.read(path, remark)
    except OSError as error:
        remark(f"metrics.jsonl cannot be read: {error.strerror}")
        return []
    lines = {line["step"]: line for line in found if type(line.get("step")) is int and number(line["step"]) is not None}
    if len(lines) < len(found):
        remark(f"metrics.jsonl: {len(found) - len(lines)} lines have no step of their own and are left out")
    return [lines[step] for step in sorted(lines)]


def _read_status(path: Path, begun: bool, remark: Callable[[str], None]) -> tuple[str, str, Status | None]:
    """State, reason and status."""
    try:
        found = status.read(path)
    except KsimError as error:
        remark(str(error))
        return "unknown", "its status.json is damaged", None
    if found is None:
        state = "unknown" if begun else "not started"
        return state, _REASONS[state], None
    state = "dead" if found.dead else found.state
    if state == "completed":
        return state, "", found
    reason = str(found.error or _REASONS.get(state, ""))
    if state == "running":
        reason = f"process {found.pid} on {found.host}"
        with contextlib.suppress(ValueError, TypeError):
            silent = datetime.now().astimezone() - datetime.fromisoformat(found.updated_at)
            if silent > _SILENT:
                reason += f"; no sign of life for {silent.total_seconds() / 3600:.1f} h"
    return state, reason, found


def _read_evaluation(path: Path, step: int, expected: bool, remark: Callable[[str], None]) -> dict[str, float]:
    name = "eval/final/metrics.json"
    try:
        found = foreign.parse_json(path.read_bytes())
        of, summary = found["step"], dict(found["summary"])
    except FileNotFoundError:
        if expected:
            remark(f"{name} is missing")
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        remark(f"{name} cannot be read: {error!r}")
        return {}
    if of != step:
        remark(f"{name} is that of step {of}, and is left out: the run is at step {step}")
        return {}
    return {str(key): x for key, value in summary.items() if (x := number(value)) is not None}


def _read_gate(run: RunDir, config: Mapping[str, Any] | None, step: int, remark: Callable[[str], None]) -> bool | None:
    """Whether the policy of a step passes its gate, by the newest of the run's `gate.json` that says so or not."""
    newest: tuple[str, bool] | None = None
    for path in run.eval.glob("*/gate.json"):
        try:
            found = foreign.parse_json(path.read_bytes())
            when, engine = str(found["created_at"]), found["engine"]["engine"]
            is_its_own = found["step"] == step and not found["overrides"]
            if is_its_own and engine == _at(config, "physics", "engine", kind=str):
                newest = max(newest or (when, False), (when, bool(found["passed"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            remark(f"{path} cannot be read: {error!r}")
    return newest[1] if newest is not None else None


def _read_commit(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        git = foreign.parse_json(path.read_bytes())["git"]["ksim"]
        return f"{git['commit'][:9]}{'+' if git['dirty'] else ''}"
    return None


def _step(lines: Sequence[Mapping[str, Any]], found: Status | None) -> int:
    if lines:
        return int(lines[-1]["step"])
    return found.step if found is not None and type(found.step) is int else 0


def _at(config: Mapping[str, Any] | None, *path: str, kind: type) -> Any:
    """A value in the config, if it is there and of this type."""
    node: Any = config
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if type(node) is kind else None
