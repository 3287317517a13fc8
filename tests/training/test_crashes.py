"""Trainings that are killed, or lose power, between any two operations on the disk; as in `tests/store`."""

from pathlib import Path

import pytest
from support import crash
from support.runs import CHUNK, fresh

from ksim.store import checkpoint
from ksim.training.loop import train
from ksim.training.resume import resumed_config

pytestmark = pytest.mark.training

OFTEN = ("checkpoint.every_s=1e-6", "eval.interval_steps=128", "eval.interval_episodes=2", "algo.learning_rate=0.01")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda fd: None)  # real ones take time
    for name in ("disk", "left"):
        (tmp_path / name).mkdir()
    return tmp_path / "disk"


def test_a_training_and_its_resume_survive_a_crash_at_any_moment(root):
    """The two newest of four checkpoints are damaged; the resume has one step of its own, and keeps one checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        recorder = crash.Recorder(root, patch)
        run = fresh(root, "runs", 4, *OFTEN, "checkpoint.keep=9")
    crash.everywhere(recorder, root.parent / "left", "runs/*/2*", crash.lines_of(run))
    assert len(recorder.ops) > 100

    damaged = [3 * CHUNK, 4 * CHUNK]
    for step in damaged:
        file = run.checkpoints / str(step) / "train_state.npz"
        file.write_bytes(file.read_bytes()[:-1])
    lines = crash.lines_of(run)
    with pytest.MonkeyPatch.context() as patch:
        recorder = crash.Recorder(root, patch)
        cfg = resumed_config(run, [f"algo.total_steps={3 * CHUNK}", "checkpoint.keep=1"])
        train(cfg, run, resume=True)
    lines[3 * CHUNK] = crash.lines_of(run)[3 * CHUNK]  # its times are others
    crash.everywhere(recorder, root.parent / "left", "runs/*/2*", lines, 2 * CHUNK, damaged)
    assert max(checkpoint.steps(run.checkpoints)) == 3 * CHUNK  # no damaged one counts as the newest
