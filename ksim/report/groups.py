"""Which runs are the same training but for the seed, and how the others differ."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ksim.report.runs import Run, natural

# What cannot change what is learned.
IGNORED = """
seed runs_dir logger log checkpoint eval task.viewer task.metrics task.gate physics.threads physics.devices
""".split()


class _Absent:
    """The value of a path that a config does not have; unlike null."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True, eq=False)
class Group:
    """Runs whose configs differ in nothing but the seed and `IGNORED`.

    Attributes:
        values: what is particular to it: path -> value, for the differing paths of its task.
        runs: all of them, by seed.
        counted: those that statistics are made of, one a seed, because the same seed twice is the same training
            twice: the completed one, else the one that got furthest, of equals the newest.
    """

    values: Mapping[str, Any]
    runs: Sequence[Run]
    counted: Sequence[Run]


@dataclass(frozen=True, eq=False)
class Task:
    """The groups of runs of one `name`.

    Attributes:
        paths: the config paths in which its groups differ.
    """

    name: str
    paths: Sequence[str]
    groups: Sequence[Group]

    def label(self, group: Group) -> str:
        """What tells a group from the others, with paths as short as they can be; empty for the only one."""
        short = shortened(self.paths)
        return ", ".join(f"{short[path]}={self._brief(path, group.values[path])}" for path in self.paths)

    def _brief(self, path: str, value: Any) -> str:
        """A term without its parameters, where the others have no such term or the same one."""
        others = [group.values[path] for group in self.groups if isinstance(group.values[path], Mapping)]
        if isinstance(value, Mapping) and all(other == value for other in others):
            return _head(value) or "{…}"
        return shown(value)


def grouped(runs: Sequence[Run]) -> list[Task]:
    """The runs with a readable config, by task and by group, sorted by what differs."""
    by_name: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.config is not None:
            key = json.dumps(_comparable_run(run.config), sort_keys=True, default=str)
            by_name[run.config["name"]][key].append(run)
    return [_task(name, list(by_name[name].values())) for name in sorted(by_name, key=natural)]


def comparable(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config without the paths of `IGNORED`."""
    return {
        str(key): comparable(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in IGNORED
    }


def _comparable_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """As `comparable`; where the training ends at its gate, that counts, too, and how it is judged."""
    found, of_eval = comparable(config), config.get("eval")
    if isinstance(of_eval, Mapping) and of_eval.get("stop_at_gate"):
        found["eval"] = {name: of_eval.get(name) for name in ("stop_at_gate", "interval_steps")}
        found["task"] = {**found.get("task", {}), "gate": config.get("task", {}).get("gate")}
    return found


def differing(configs: Sequence[Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    """The shallowest paths that tell configs apart: a term that only some have is one path, not one per parameter."""
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(key, ABSENT) for config in configs]
        if all(value == values[0] for value in values):
            continue
        if all(isinstance(value, Mapping) for value in values):
            yield from differing(values, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def shortened(paths: Sequence[str]) -> dict[str, str]:
    """Each path's shortest ending that none of the others has."""
    endings = {path: [path.split(".")[-n:] for n in range(1, path.count(".") + 2)] for path in paths}
    return {
        path: next(
            (".".join(e) for e in endings[path] if not any(e in endings[other] for other in paths if other != path)),
            path,
        )
        for path in paths
    }


def shown(value: Any) -> str:
    """A config value in few characters."""
    if value is ABSENT:
        return "–"
    if isinstance(value, Mapping):
        if head := _head(value):
            return f"{head}({', '.join(f'{key}={shown(item)}' for key, item in value.items() if key != '_target_')})"
        return f"{{{', '.join(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _head(term: Mapping[str, Any]) -> str:
    return str(term.get("_target_", "")).rpartition(".")[2]


def _task(name: str, members: Sequence[Sequence[Run]]) -> Task:
    configs = [_comparable_run(runs[0].config or {}) for runs in members]
    paths = list(differing(configs))
    groups = []
    for config, runs in zip(configs, members, strict=True):
        values = {path: _at(config, path) for path in paths}
        by_seed = sorted(runs, key=lambda run: (run.seed, natural(str(run.path))))
        groups.append(Group(values, by_seed, _counted(by_seed)))
    groups.sort(key=lambda group: [_order(value) for value in group.values.values()])
    return Task(name, paths, groups)


def _counted(runs: Sequence[Run]) -> list[Run]:
    best: dict[int | None, Run] = {}
    for run in runs:
        if run.seed not in best or _rank(run) >= _rank(best[run.seed]):
            best[run.seed] = run
    return list(best.values())


def _rank(run: Run) -> tuple[bool, int, str]:
    return run.completed, run.step, str(run.status.started_at) if run.status else ""


def _at(config: Mapping[str, Any], path: str) -> Any:
    node: Any = config
    for key in path.split("."):
        node = node.get(key, ABSENT) if isinstance(node, Mapping) else ABSENT
    return node


def _order(value: Any) -> tuple[int, float, list[Any]]:
    """Numbers by size before everything else by its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, value, []
    return 1, 0.0, natural(shown(value))
