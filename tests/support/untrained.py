"""A run directory that took no training."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ksim.config.compose import freeze
from ksim.config.schema import Config
from ksim.rl import TrainState
from ksim.store import run_dir
from ksim.store.run_dir import RunDir
from ksim.training.experiment import Experiment, build
from ksim.training.loop import save


def untrained(cfg: Config, runs_dir: Path) -> tuple[RunDir, Experiment]:
    """A run whose checkpoint of step 0 holds a policy with random numbers everywhere, statistics included."""
    experiment = build(cfg)
    rng = np.random.default_rng(0)

    def disturbed(x: jax.Array) -> Any:
        return (x + 0.1 * np.abs(rng.normal(size=x.shape))).astype(x.dtype)

    policy = jax.tree.map(disturbed, experiment.policy_like())
    run = run_dir.claim(runs_dir, cfg.name)
    run.config_path.write_text(freeze(experiment.cfg))
    run.update_latest()
    nothing = dict.fromkeys((f.name for f in dataclasses.fields(TrainState)), None)
    save(experiment, TrainState(**(nothing | policy)), run, 0)
    return run, experiment
