"""Policies of saved runs, for an experiment that they fit."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx

from ksim.errors import ConfigError
from ksim.store import checkpoint, run_dir
from ksim.store.checkpoint import CheckpointError
from ksim.store.run_dir import RunDir
from ksim.training.experiment import Experiment

log = logging.getLogger(__name__)


def load_policy(run: RunDir, which: str, experiment: Experiment) -> tuple[Mapping[str, Any], int]:
    """The policy of a checkpoint (see `ksim.store.checkpoint.find`), with the `curriculum` it came to, and its step.

    Raises:
        CheckpointError: there is none, or it does not fit the experiment.
    """
    like = {"policy": eqx.filter_eval_shape(experiment.policy_like)}
    while True:
        path = checkpoint.find(run.checkpoints, which, log.warning)
        try:
            found = checkpoint.load(path, like)
            return found.trees["policy"] | {"curriculum": _curriculum(path, experiment)}, found.step
        except CheckpointError:
            if path.exists():
                raise  # else the training, which goes on, has just removed it for a newer one


def _curriculum(path: Path, experiment: Experiment) -> Mapping[str, Any] | None:
    """How far the curricula of the experiment's task had come at a checkpoint; None where it does not know them."""
    curriculum = experiment.env.curriculum
    if not curriculum.terms:
        return None
    try:
        found: Mapping[str, Any] = checkpoint.load(path, {"curriculum": curriculum.initial()}).trees["curriculum"]
        return found
    except CheckpointError:
        if not path.exists():
            raise
        log.warning("the checkpoint has other curricula than task.curriculum: they are at their first values here")
        return None


def initial_policy(experiment: Experiment) -> Mapping[str, Any] | None:
    """The policy that a training starts from: that of `init_from`, or None for a fresh one.

    Raises:
        ConfigError: it cannot be read, or does not fit.
    """
    cfg = experiment.cfg
    if cfg.init_from is None:
        return None
    try:
        policy, step = load_policy(run_dir.open(cfg.init_from, cfg.runs_dir), cfg.init_checkpoint, experiment)
    except CheckpointError as error:
        raise ConfigError(f"init_from: that policy does not fit this task and algo: {error}") from error
    log.info("starting from the policy of %s, step %s", cfg.init_from, f"{step:,}")
    return {name: part for name, part in policy.items() if name != "curriculum"}
