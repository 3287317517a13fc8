"""Small trainings of the cart-pole, and what they end with."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ksim.config.compose import compose
from ksim.store import checkpoint, metrics, run_dir
from ksim.store.run_dir import RunDir
from ksim.training.loop import train

CHUNK = 16 * 4 * 2  # env steps of a log interval
SMALL = """
task=cartpole_balance physics=mujoco physics.threads=1 seed=3 algo.num_envs=16 algo.num_env_states_per_minibatch=32
algo.num_minibatches=2 algo.num_learning_epochs=2 algo.actor_hidden=[16] algo.critic_hidden=[16]
log.interval_iterations=2 eval.episodes=0 task.episode_length_s=0.5
""".split()


def fresh(tmp_path: Path, name: str, num_chunks: int, *overrides: str) -> RunDir:
    """A training of some chunks in this process."""
    cfg = compose([*SMALL, f"runs_dir={tmp_path / name}", f"algo.total_steps={num_chunks * CHUNK}", *overrides])
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    train(cfg, run)
    return run


def final_state(run: RunDir) -> dict[str, np.ndarray]:
    """The whole train state of the newest checkpoint, by leaf."""
    found = checkpoint.load_arrays(checkpoint.newest_valid(run.checkpoints, pytest.fail), "train_state")
    is_key = {name: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for name, x in found.items()}
    return {name: np.asarray(jax.random.key_data(x) if is_key[name] else x) for name, x in found.items()}


def lines_without_time(run: RunDir) -> list[dict]:
    wall = ("wall_time_s", "env_steps_per_s", "eval_time_s", "gate/time_s")
    return [{k: v for k, v in line.items() if k not in wall} for line in metrics.read(run.metrics_path)]


def assert_same_state(a: RunDir, b: RunDir) -> None:
    """The same whole train state, bit by bit."""
    left, right = final_state(a), final_state(b)
    assert left.keys() == right.keys() and len(left) > 20
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def assert_same(a: RunDir, b: RunDir) -> None:
    """The same whole train state, bit by bit, and the same log."""
    assert_same_state(a, b)
    assert lines_without_time(a) == lines_without_time(b)
