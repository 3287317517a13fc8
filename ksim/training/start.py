"""A training from Python, as `python -m ksim.run` makes it from a command line."""

import os
from collections.abc import Sequence
from pathlib import Path

from ksim.config.compose import compose
from ksim.store import run_dir
from ksim.system.logs import logging_to
from ksim.training import loop
from ksim.training.checks import checked_new


def train(overrides: Sequence[str] = (), *, config_dir: str | os.PathLike[str] | None = None) -> Path:
    """Train in a new run directory.

    Args:
        overrides: as on the command line: "task=cartpole_balance", "seed=3", "algo.num_envs=64".
        config_dir: a folder of the caller's own YAML files, searched before ksim's.

    Returns:
        The run directory, for `ksim.load_policy` and `python -m ksim.eval run=<it>`.

    Raises:
        ConfigError: a mistake in an override or a YAML file; nothing was made on disk.
        KsimError: the training failed; the run directory's `status.json` and `train.log` say why.
    """
    cfg = checked_new(compose(overrides, config_dir))
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    with logging_to(run.log_path):
        loop.train(cfg, run)
    return run.path
