"""A stopped training goes on as if it had never stopped: bit by bit, from the command line, after any kind of end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ksim.compose import compose
from ksim.errors import ConfigError, KsimError
from ksim.resume import resumed_config
from ksim.store import checkpoint, metrics, run_dir, status
from ksim.store.run_dir import RunDir
from ksim.train import train

REPO = Path(__file__).resolve().parent.parent
CHUNK = 16 * 4 * 2  # env steps of a log interval
SMALL = """
task=cartpole_balance physics=mujoco physics.threads=1 seed=3 algo.num_envs=16 algo.num_env_states_per_minibatch=32
algo.num_minibatches=2 algo.num_learning_epochs=2 algo.actor_hidden=[16] algo.critic_hidden=[16]
log.interval_iterations=2 eval.episodes=0 task.episode_length_s=0.5
""".split()


def command(cwd: Path, *argv: str) -> subprocess.Popen[str]:
    """`python -m ksim.run`, as a user gives it."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "ksim.run", *argv], cwd=cwd, env=environment, text=True, **pipes)


def fresh(tmp_path: Path, name: str, num_chunks: int, *overrides: str) -> RunDir:
    """A training of some chunks in this process."""
    cfg = compose([*SMALL, f"runs_dir={tmp_path / name}", f"algo.total_steps={num_chunks * CHUNK}", *overrides])
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    train(cfg, run)
    return run


def final_state(run: RunDir) -> dict[str, np.ndarray]:
    found = checkpoint.load_arrays(checkpoint.newest_valid(run.checkpoints, pytest.fail), "train_state")
    is_key = {name: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for name, x in found.items()}
    return {name: np.asarray(jax.random.key_data(x) if is_key[name] else x) for name, x in found.items()}


def lines_without_time(run: RunDir) -> list[dict]:
    wall = ("wall_time_s", "env_steps_per_s")
    return [{k: v for k, v in line.items() if k not in wall} for line in metrics.read(run.metrics_path)]


def assert_same(a: RunDir, b: RunDir) -> None:
    """The same whole train state, bit by bit, and the same log."""
    left, right = final_state(a), final_state(b)
    assert left.keys() == right.keys() and len(left) > 20
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert lines_without_time(a) == lines_without_time(b)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunDir:
    """Six chunks in one go."""
    return fresh(tmp_path_factory.mktemp("undisturbed"), "runs", 6)


def test_training_2n_equals_n_then_n(tmp_path, undisturbed):
    run = fresh(tmp_path, "runs", 3)
    assert len(lines_without_time(run)) == 3
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}"]), run, resume=True)
    assert_same(run, undisturbed)
    assert status.read(run.status_path).state == "completed"
    assert "resumes" in json.loads(run.provenance_path.read_text())


def test_a_state_that_differs_is_noticed(tmp_path, undisturbed):
    """The comparison above can fail: one more chunk, or another seed, is another state."""
    other = fresh(tmp_path, "runs", 6, "seed=4")
    with pytest.raises(AssertionError):
        assert_same(other, undisturbed)


def test_lines_after_the_checkpoint_are_trained_again_not_doubled(tmp_path, undisturbed):
    """A killed training has log lines that its newest checkpoint does not know of."""
    run = fresh(tmp_path, "runs", 6)
    newest = max(checkpoint.steps(run.checkpoints))
    cfg = resumed_config(run, [])
    earlier = fresh(tmp_path, "earlier", 2)
    for step in checkpoint.steps(run.checkpoints):
        (run.checkpoints / str(step)).rename(tmp_path / f"gone-{step}")
    (earlier.checkpoints / str(2 * CHUNK)).rename(run.checkpoints / str(2 * CHUNK))
    assert newest not in checkpoint.steps(run.checkpoints)
    train(cfg, run, resume=True)
    assert_same(run, undisturbed)


def test_without_a_checkpoint_it_starts_anew(tmp_path, undisturbed):
    run = fresh(tmp_path, "runs", 1)
    for step in checkpoint.steps(run.checkpoints):
        (run.checkpoints / str(step)).rename(tmp_path / "gone")
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}"]), run, resume=True)
    assert_same(run, undisturbed)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path, undisturbed, caplog):
    run = fresh(tmp_path, "runs", 4, "checkpoint.every_s=0.000001", "checkpoint.keep=3")
    policy = run.checkpoints / str(4 * CHUNK) / "train_state.npz"
    policy.write_bytes(policy.read_bytes()[:-100])
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}"]), run, resume=True)
    assert "train_state.npz" in caplog.text
    assert_same(run, undisturbed)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("algo.learning_rate=1e-5", "algo.learning_rate"),
        ("task.rewards.upright.weight=2", "task.rewards.upright.weight"),
        ("physics.engine=mjx", "physics.engine"),
    ],
)
def test_what_would_make_another_training_is_refused(undisturbed, override, path):
    with pytest.raises(ConfigError, match=path):
        resumed_config(undisturbed, [override])


def test_what_may_change_may(undisturbed):
    changes = ["algo.total_steps=999", "checkpoint.keep=7", "eval.episodes=2", "log.interval_iterations=1"]
    cfg = resumed_config(undisturbed, changes)
    assert (cfg.algo.total_steps, cfg.checkpoint.keep, cfg.eval.episodes) == (999, 7, 2)
    assert resumed_config(undisturbed, ["algo.learning_rate=0.0005"]).algo.learning_rate == 0.0005  # the same


def test_a_run_in_use_is_refused(undisturbed):
    with undisturbed.lock(), pytest.raises(KsimError, match="in use"):
        train(resumed_config(undisturbed, []), undisturbed, resume=True)


def wait_for(run: Path, num_lines: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list(run.glob("runs/cartpole_balance/*-*/metrics.jsonl"))
        if found and len(metrics.read(found[0])) >= num_lines:
            return
        time.sleep(0.02)
    pytest.fail(f"no log lines: {process.communicate()[1]}")


@pytest.mark.parametrize(("signum", "code", "state"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -9, None)])
def test_stopped_by_a_signal_and_resumed(tmp_path, signum, code, state):
    """Ctrl-C finishes the chunk, saves and says how to go on; a kill loses what came after the last checkpoint."""
    steps = f"algo.total_steps={3000 * CHUNK}"
    process = command(tmp_path, *SMALL, steps, "checkpoint.every_s=0.2")
    wait_for(tmp_path, 40, process)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    run = run_dir.open("latest", tmp_path / "runs")
    if state:
        assert status.read(run.status_path).state == state
        assert f"resume={run.path}" in out + err
    stopped_at = max(checkpoint.steps(run.checkpoints))
    total = stopped_at + 3 * CHUNK
    process = command(tmp_path, f"resume={run.path}", f"algo.total_steps={total}")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    whole = fresh(tmp_path, "whole", total // CHUNK)
    assert_same(run, whole)
