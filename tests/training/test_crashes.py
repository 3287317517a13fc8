"""Trainings that are killed, or lose power, between any two operations on the disk; as in `tests/store`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import crash
from support.runs import CHUNK, fresh

from ksim.evaluation.best import Judge
from ksim.store import checkpoint, run_dir
from ksim.store.metrics import MetricsWriter
from ksim.store.status import StatusFile
from ksim.training import records
from ksim.training.loop import train
from ksim.training.resume import resumed_config

OFTEN = ("checkpoint.every_s=1e-6", "eval.interval_steps=128", "eval.interval_episodes=2", "algo.learning_rate=0.01")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda fd: None)  # real ones take time
    for name in ("disk", "left"):
        (tmp_path / name).mkdir()
    return tmp_path / "disk"


def test_the_records_of_a_training_survive_a_crash_at_any_moment(root, monkeypatch):
    """In the order in which a training writes its log lines, its checkpoints and which is the best; without an env."""

    def save(experiment, state, run, step):
        checkpoint.save(run.checkpoints, step, {"train_state": state}, {})

    monkeypatch.setattr(records, "save", save)
    with pytest.MonkeyPatch.context() as patch:
        recorder = crash.Recorder(root, patch)
        run = run_dir.claim(root / "runs", "task")
        judge = Judge.__new__(Judge)
        vars(judge).update(best=None, _best_level={}, _checkpoints=run.checkpoints)
        cfg = SimpleNamespace(checkpoint=SimpleNamespace(every_s=1e9, keep=1))
        with StatusFile(run.status_path) as status, MetricsWriter(run.metrics_path) as writer:
            made = records.Records.__new__(records.Records)
            vars(made).update(experiment=SimpleNamespace(cfg=cfg), run_dir=run, judge=judge, gate=None, _writer=writer)
            vars(made).update(total_steps=5, _before=0.0, _saved=0.0)
            for made.step, score in enumerate((1.0, 3.0, 2.0, 5.0, 4.0), 1):
                numbers = {"eval/return": score}
                writer.write(made.step, numbers)
                status.update(made.step)
                made.save_if_due(lambda: {"x": np.arange(9)}, numbers, asked=True)
    crash.everywhere(recorder, root.parent / "left", "runs/task/*", crash.lines_of(run))
    assert len(recorder.ops) > 100 and checkpoint.steps(run.checkpoints) == [4, 5]
    assert checkpoint.read_best(run.checkpoints) == checkpoint.Best(4, 5.0)


@pytest.mark.training
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
