"""A run directory that took no training."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ksim.config.compose import freeze
from ksim.config.schema import Config
from ksim.rl import Policy, PPOState
from ksim.store import run_dir
from ksim.store.run_dir import RunDir
from ksim.training.experiment import Experiment, build
from ksim.training.state import save


def untrained(cfg: Config, runs_dir: Path) -> tuple[RunDir, Experiment]:
    """A run whose checkpoint of step 0 holds a policy with random numbers everywhere, statistics included."""
    experiment = build(cfg)
    run = run_dir.claim(runs_dir, cfg.name)
    run.config_path.write_text(freeze(experiment.cfg))
    run.update_latest()
    write_checkpoint(run, experiment, 0)
    return run, experiment


def write_checkpoint(run: RunDir, experiment: Experiment, step: int) -> None:
    """A checkpoint of a policy with random numbers, others at each step."""
    rng = np.random.default_rng(step)

    def drawn(x: jax.ShapeDtypeStruct) -> Any:
        return (0.05 + 0.1 * np.abs(rng.normal(size=x.shape))).astype(x.dtype)

    state = eqx.filter_eval_shape(experiment.algorithm.init, experiment.env, jax.random.key(0))
    nothing = dict.fromkeys((f.name for f in dataclasses.fields(PPOState)), None)
    save(experiment, PPOState(**(nothing | {"model": jax.tree.map(drawn, state.model)})), run, step)


def fresh_policy(experiment: Experiment) -> Policy:
    """The policy that a training of an experiment begins with."""
    state = eqx.filter_jit(experiment.algorithm.init)(experiment.env, jax.random.key(0))
    return experiment.algorithm.policy(state)
