"""Run directories as a training leaves them, with numbers of our own, written by the store itself."""

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ksim.config.compose import freeze
from ksim.store.metrics import MetricsWriter
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile

WriteRun = Callable[..., RunDir]


@pytest.fixture(scope="session")
def frozen(composed) -> dict[str, Any]:
    """The frozen config of a small cart-pole run, as plain mappings."""
    return yaml.safe_load(freeze(composed["cartpole_balance"]))


@pytest.fixture
def make_run(tmp_path, write_run) -> WriteRun:
    """`write_run` in the test's own folder."""
    return partial(write_run, tmp_path)


@pytest.fixture(scope="session")
def write_run(frozen) -> WriteRun:
    def write(
        root: Path,
        where: str,
        changes: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        returns: Any = (1.0, 2.0, 3.0),
        state: str = "completed",
        error: str | None = None,
        final: Mapping[str, float] | None = None,
        steps_a_line: int = 1000,
        commit: str | None = "0123456789abcdef",
    ) -> RunDir:
        """A run in `root / where`; `changes` are config paths with their values, None in `returns` is no number."""
        run = RunDir(root / where)
        run.path.mkdir(parents=True)
        config = copy.deepcopy(frozen)
        for path, value in {"seed": seed, **(changes or {})}.items():
            *parents, last = path.split(".")
            node = config
            for name in parents:
                node = node[name]
            node[last] = value
        run.config_path.write_text(yaml.safe_dump(config, sort_keys=False))
        git = {"ksim": {"commit": commit, "dirty": False} if commit else None}
        run.provenance_path.write_text(json.dumps({"git": git}))
        with MetricsWriter(run.metrics_path) as writer:
            for i, value in enumerate(returns, 1):
                line = {"return": value, "episode_length_s": 0.5 * i, "falls": 1 / i, "wall_time_s": 10.0 * i}
                writer.write(i * steps_a_line, line)
        step = len(returns) * steps_a_line
        status = StatusFile(run.status_path)
        status.update(step)
        if state != "running":
            status.end(state, step, error)  # type: ignore[arg-type]
        if state == "completed" and final is not None:
            folder = run.eval / "final"
            folder.mkdir(parents=True)
            summary = {"falls": 0.0, "episode_length_s": 10.0, "episodes": 8.0, "seed": float(seed), **final}
            (folder / "metrics.json").write_text(json.dumps({"step": step, "overrides": [], "summary": summary}))
        return run

    return write
