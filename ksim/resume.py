"""``python -m ksim.run resume=<run>``: a training goes on, from its frozen config and its newest checkpoint."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ksim import compose
from ksim.config import Config
from ksim.errors import ConfigError
from ksim.store import run_dir
from ksim.store.run_dir import RunDir

# What may change: how long it goes on, and what is written; everything else makes another training.
_MAY_CHANGE = ("algo.total_steps", "log.", "logger.", "checkpoint.", "eval.", "runs_dir")


def is_resume(argv: Sequence[str]) -> bool:
    """Whether a command line resumes a run."""
    return any(argument.startswith("resume=") for argument in argv)


def resume(argv: Sequence[str]) -> None:
    """Resume as the command line asks: `resume=<run> [override ...]`.

    Raises:
        KsimError: there is no such run, or an override would make another training of it.
    """
    from ksim.train import train  # late: it initialises what a login node must not

    (spec,) = [a.removeprefix("resume=") for a in argv if a.startswith("resume=")]
    overrides = [a for a in argv if not a.startswith("resume=")]
    runs_dir = next((a.removeprefix("runs_dir=") for a in overrides if a.startswith("runs_dir=")), "runs")
    run = run_dir.open(spec, runs_dir)
    cfg = resumed_config(run, [a for a in overrides if not a.startswith("runs_dir=")])
    _log_to(run.log_path)
    train(cfg, run, resume=True)


def resumed_config(run: RunDir, overrides: Sequence[str]) -> Config:
    """A run's frozen config with overrides that may change in a resume.

    Raises:
        ConfigError: an override differs where it may not, with the paths that differ.
    """
    frozen = compose.load_frozen(run.config_path)
    cfg = compose.with_overrides(frozen, overrides)
    before, after = dict(_leaves(dataclasses.asdict(frozen))), dict(_leaves(dataclasses.asdict(cfg)))
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    refused = [path for path in changed if not path.startswith(_MAY_CHANGE)]
    if refused:
        listed = ", ".join(f"{path} ({before.get(path)} -> {after.get(path)})" for path in refused)
        raise ConfigError(
            f"resume={run.path}: a resume goes on with the same training, and this would change it: {listed}; "
            f"start a new run for that, from the policy of this one with init_from={run.path} "
            "(algo.total_steps, log, logger, checkpoint and eval may change)"
        )
    return cfg


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _log_to(path: Path) -> None:
    """Messages to the terminal, and with dates to the end of the run's `train.log`, as Hydra sets it up for a run."""
    console, file = logging.StreamHandler(), logging.FileHandler(path)
    console.setFormatter(logging.Formatter("%(message)s"))
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console, file])
