"""The state of a training on its way: made, started from a policy, written to disk and read again."""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from ksim.errors import ConfigError
from ksim.policies.describe import describe
from ksim.policies.load import load_model
from ksim.rl import random_key, train_chunk
from ksim.store import checkpoint, run_dir
from ksim.store.checkpoint import CheckpointError
from ksim.store.run_dir import RunDir
from ksim.system.jit import jit
from ksim.training.experiment import Experiment

log = logging.getLogger(__name__)


def jit_chunk(experiment: Experiment, **options: Any) -> Any:
    """The train program: a chunk of iterations, compiled once, its state donated; options are those of `jax.jit`."""
    program = partial(
        train_chunk, experiment.env, experiment.algorithm, num_iterations=experiment.cfg.log.interval_iterations
    )
    return jit(program, donate_argnums=0, **options)


def first_state(experiment: Experiment, init: Callable[[jax.Array], Any] | None = None) -> Any:
    """The state at step 0: fresh envs and a fresh optimizer, and the model of `init_from` where there is one.

    Args:
        experiment: what is to be trained.
        init: its algorithm's `init`, compiled, as a function of the key; None: it is compiled here.

    Raises:
        ConfigError: that model cannot be read, or does not fit.
    """
    cfg = experiment.cfg
    assert cfg.seed is not None  # the config is checked
    init = init or jit(partial(experiment.algorithm.init, experiment.env))
    state = init(random_key(cfg.seed, "train"))
    if cfg.init_from is None:
        return state
    if not hasattr(state, "model"):
        raise ConfigError("init_from: this algorithm cannot start from another training: its state has no 'model'")
    try:
        model, step = load_model(run_dir.open(cfg.init_from, cfg.runs_dir), cfg.init_checkpoint, state.model)
    except CheckpointError as error:
        raise ConfigError(f"init_from: what was learned there does not fit this task and algo: {error}") from error
    log.info("starting from the policy of %s, step %s", cfg.init_from, f"{step:,}")
    return dataclasses.replace(state, model=model)


def restore(experiment: Experiment, run: RunDir) -> tuple[Any, int]:
    """The state and the step of the newest whole checkpoint; None and 0 where the run had none yet.

    Later checkpoints are removed: they are damaged, and belong to a future that is made again.

    Raises:
        CheckpointError: all of them are damaged.
    """
    checkpoint.clean(run.checkpoints)
    if not checkpoint.steps(run.checkpoints):
        log.info("no checkpoint yet: starting from the first step")
        return None, 0
    state, step = load(experiment, checkpoint.newest_valid(run.checkpoints, log.warning))
    checkpoint.discard_after(run.checkpoints, step)
    log.info("resuming at %s steps", f"{step:,}")
    return state, step


def load(experiment: Experiment, path: Path) -> tuple[Any, int]:
    """The state and the step of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or of another training.
    """
    init = partial(experiment.algorithm.init, experiment.env)
    like = {"train_state": eqx.filter_eval_shape(init, jax.random.key(0))}
    found = checkpoint.load(path, like)
    return found.trees["train_state"], found.step


def save(experiment: Experiment, state: Any, run: RunDir, step: int) -> None:
    """Write a checkpoint: the policy, and the whole state.

    Raises:
        CheckpointError: the disk is full, or another error of the file system; the older checkpoints are whole.
    """
    policy = experiment.algorithm.policy(state)
    trees: dict[str, Any] = {"policy": policy, "train_state": state}
    if experiment.env.curriculum.terms:
        trees["curriculum"] = state.env_carry.shared.curriculum
    meta = describe(experiment.cfg, experiment.env, policy)
    checkpoint.save(run.checkpoints, step, jax.device_get(trees), meta)
