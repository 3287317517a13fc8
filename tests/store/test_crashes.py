"""Killed, or without power, between any two operations on the disk: what was promised is still there."""

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from support import crash

from ksim.store import checkpoint, files, run_dir
from ksim.store.checkpoint import Best
from ksim.store.metrics import MetricsWriter
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile

STORE = Path(run_dir.__file__).parent


def train(run: RunDir, first: int, last: int) -> None:
    """What a training does to its run directory, in the order of `ksim.training.loop`; the best is every third step."""
    trees = {"policy": {"w": np.arange(50.0)}, "train_state": {"x": np.arange(100)}}
    best: Best | None = checkpoint.read_best(run.checkpoints)
    with StatusFile(run.status_path) as current, MetricsWriter(run.metrics_path) as writer:
        writer.truncate_after(first - 1)
        for step in range(first, last + 1):
            writer.write(step, {"return": step / 7, "eval/return": float(step % 3)})
            current.update(step)
            writer.sync()
            checkpoint.save(run.checkpoints, step, trees, {"step": step})
            if step % 3 == 0:
                best = Best(step, 1.0)
                checkpoint.write_best(run.checkpoints, best)
            checkpoint.prune(run.checkpoints, 2, [best.step] if best else [])


@pytest.fixture(autouse=True)
def _real_syncs_take_time(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "disk").mkdir()
    (tmp_path / "left").mkdir()
    return tmp_path / "disk"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_run_survives_a_crash_at_any_moment(root, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "exchange", lambda a, b: False)
    with pytest.MonkeyPatch.context() as patch:
        recorder = crash.Recorder(root, patch)
        run = run_dir.claim(root / "runs", "task")
        train(run, 1, 5)
    crash.everywhere(recorder, root.parent / "left", "runs/task/*", crash.lines_of(run))
    assert len(recorder.ops) > 150 and checkpoint.steps(run.checkpoints) == [3, 4, 5]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_so_does_a_checkpoint_that_is_replaced(root, monkeypatch, can_exchange):
    """There is the old one or the new one, at every moment; after a `clean` at the latest."""
    if not can_exchange:
        monkeypatch.setattr(files, "exchange", lambda a, b: False)
    old, new = ({"policy": {"w": np.full(3, x)}} for x in (1.0, 2.0))
    checkpoint.save(root, 7, old, {})
    with pytest.MonkeyPatch.context() as patch:
        recorder = crash.Recorder(root, patch)
        checkpoint.save(root, 7, new, {})
    seen = set()
    for moment, disk, saved in recorder.moments():
        for how, tree in enumerate((disk.killed(), disk.cut(None), *(disk.cut(random.Random(i)) for i in range(5)))):
            place = root.parent / "left" / f"{moment}-{how}"
            crash.write(tree, place)
            checkpoint.clean(place)
            newest = checkpoint.newest_valid(place, str)
            w = float(checkpoint.load_arrays(newest, "policy")["w"][0])
            assert w == 2.0 if saved else w in (1.0, 2.0)
            seen.add(w)
    assert seen == {1.0, 2.0}


def test_what_is_called_synced_is(tmp_path, monkeypatch):
    """The operations themselves, which the recorder takes at their word: all that was written was there by then."""
    synced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
    )
    files.write_synced(tmp_path / "a", b"1234")
    assert synced == [(str(tmp_path / "a"), 4)]
    files.fsync_dir(tmp_path)
    assert synced[1][0] == str(tmp_path)
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        assert synced[2][0] == str(tmp_path)  # a new file's name, too
        writer.write(1, {})
        writer.sync()
    assert synced[3] == (str(tmp_path / "metrics.jsonl"), len('{"step": 1}\n')) and len(synced) == 4


def test_the_disk_of_these_tests_loses_what_is_not_synced(root):
    """Else they would find nothing."""
    with pytest.MonkeyPatch.context() as patch:
        recorder = crash.Recorder(root, patch)
        files.write_synced(root / "a", b"1234")
        appended = files.AppendedFile(root / "b")
        appended.append(b"xy")
        files.fsync_dir(root)
        files.rename(root / "a", root / "c")
        appended.close()
    *_, (_, disk, _) = recorder.moments()
    assert disk.killed() == {"c": b"1234", "b": b"xy"}
    assert disk.cut(None) == {"a": b"1234", "b": b""}
    some = [disk.cut(random.Random(i)) for i in range(50)]
    assert {"c": b"1234", "b": b"x"} in some and {"a": b"1234", "b": b"xy"} in some


def test_the_store_touches_the_disk_by_the_operations_that_are_cut_alone():
    direct = re.compile(
        r"os\.(rename|replace|unlink|remove|rmdir|mkdir|makedirs|write|truncate|fsync)\b|shutil\.|\.(unlink|mkdir|rmdir)"
        r"\(|write_text|write_bytes|[^.\w]open\(.*[\"'][wax+]"
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in STORE.glob("*.py")
        if path.name not in ("files.py", "lock.py")  # a lock holds nothing that must survive
        for line in path.read_text().splitlines()
        if direct.search(line)
    ]
    assert found == []
