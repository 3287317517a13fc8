"""A pack learns what its members learn alone."""

import json

import numpy as np
import pytest

from ksim.config.compose import compose
from ksim.store import metrics, run_dir
from ksim.store.run_dir import RunDir
from ksim.training.loop import train
from ksim.training.pack import train_pack
from ksim.training.population import Population

SEEDS = (1, 2, 3, 4)
COMMON = "task=cartpole_balance physics=mujoco eval.interval_steps=null eval.episodes=64 eval.video=false".split()


def final_return(run: RunDir) -> float:
    return json.loads((run.eval / "final" / "metrics.json").read_text())["summary"]["return"]


def curve(run: RunDir) -> np.ndarray:
    """The mean return of the episodes that ended in each fifth of the training."""
    returns = [line["return"] for line in metrics.read(run.metrics_path) if line.get("return") is not None]
    return np.array([np.mean(part) for part in np.array_split(returns, 5)])


@pytest.mark.training
def test_the_curves_agree_in_distribution(tmp_path):
    """Rounding makes other trainings of them in the long run, and no better or worse ones."""
    packed, alone = [], []
    configs = [compose([*COMMON, f"seed={seed}", f"runs_dir={tmp_path}"]) for seed in SEEDS]
    for runs in (packed, alone):
        runs += [run_dir.claim(cfg.runs_dir, cfg.name) for cfg in configs]
    train_pack(Population(configs), packed)
    for cfg, run in zip(configs, alone, strict=True):
        train(cfg, run)
    assert min(final_return(run) for run in (*packed, *alone)) > 9.0  # of 10
    ours, theirs = (np.array([curve(run) for run in runs]) for runs in (packed, alone))
    error = np.sqrt((ours.var(axis=0, ddof=1) + theirs.var(axis=0, ddof=1)) / len(SEEDS))
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.0 * error + 0.1).all(), (ours, theirs)
