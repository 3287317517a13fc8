"""A full disk ends a training with one clear message, and what was saved before stays whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import CHUNK, SMALL

from ksim.store import checkpoint, metrics, run_dir
from ksim.training.loop import train
from ksim.training.resume import resumed_config

REPO = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_leaves_the_older_checkpoints_whole(tmp_path, small_disk):
    keep_all = ("checkpoint.every_s=1e-6", "checkpoint.keep=1000", f"algo.total_steps={1000 * CHUNK}")
    done = subprocess.run(
        [sys.executable, "-m", "ksim.run", *SMALL, *keep_all, f"runs_dir={small_disk / 'runs'}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.returncode not in (0, -9)
    assert "error: " in done.stderr and "disk is full" in done.stderr and "Traceback" not in done.stderr, done.stderr
    run = run_dir.open("latest", small_disk / "runs")
    steps = checkpoint.steps(run.checkpoints)
    assert len(steps) > 3
    assert all(checkpoint.verify(run.checkpoints / str(step)) == [] for step in steps)
    assert [line["step"] for line in metrics.read(run.metrics_path)][: len(steps)] == steps
    for step in steps[:3]:
        shutil.rmtree(run.checkpoints / str(step))  # room again
    total = steps[-1] + CHUNK
    train(resumed_config(run, [f"algo.total_steps={total}", "checkpoint.keep=1"]), run, resume=True)
    assert checkpoint.steps(run.checkpoints) == [total]
