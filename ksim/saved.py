"""Policies of saved runs, for an experiment that they fit."""

import logging
from collections.abc import Mapping
from typing import Any

import equinox as eqx

from ksim.errors import ConfigError
from ksim.experiment import Experiment
from ksim.store import checkpoint, run_dir
from ksim.store.checkpoint import CheckpointError
from ksim.store.run_dir import RunDir

log = logging.getLogger(__name__)


def load_policy(run: RunDir, which: str, experiment: Experiment) -> tuple[Mapping[str, Any], int]:
    """The policy of a checkpoint (see `ksim.store.checkpoint.find`), and its step.

    Raises:
        CheckpointError: there is none, or it does not fit the experiment.
    """
    like = {"policy": eqx.filter_eval_shape(experiment.policy_like)}
    while True:
        path = checkpoint.find(run.checkpoints, which, log.warning)
        try:
            found = checkpoint.load(path, like)
            return found.trees["policy"], found.step
        except CheckpointError:
            if path.exists():
                raise  # else the training, which goes on, has just removed it for a newer one


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
    return policy
