"""Run directories: unique, found again, owned by one process."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from ksim.errors import KsimError
from ksim.store import run_dir
from ksim.store.status import StatusFile

_WHEN = datetime(2026, 1, 2, 3, 4, 5)


def _make(runs: Path, task: str, day: int) -> run_dir.RunDir:
    run = run_dir.claim(runs, task, datetime(2026, 1, day))
    run.config_path.write_text("task: {}\n")
    run.update_latest()
    return run


def test_claim_names_by_time_and_never_twice(tmp_path):
    names = [run_dir.claim(tmp_path, "kbot", _WHEN).path.name for _ in range(3)]
    assert names == ["2026-01-02_03-04-05", "2026-01-02_03-04-05_1", "2026-01-02_03-04-05_2"]
    assert run_dir.claim(tmp_path, "group/kbot", _WHEN).path.parent.name == "group_kbot"
    for bad in ("", "..", "latest", "sweeps"):
        with pytest.raises(KsimError, match="cannot be a task's name"):
            run_dir.claim(tmp_path, bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(KsimError, match="cannot make a run directory"):
        run_dir.claim(tmp_path, "file")


_CLAIM = """
import sys
from datetime import datetime
from ksim.store import run_dir
from ksim.store.status import StatusFile
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    print(run_dir.claim(sys.argv[1], "kbot", datetime(2026, 1, 2)).path)
"""


def test_claim_from_several_processes_at_once(tmp_path):
    command = [sys.executable, "-c", _CLAIM, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    paths = [path for process in processes for path in process.communicate()[0].split()]
    assert len(set(paths)) == 80 == len(list((tmp_path / "kbot").iterdir()))


def test_latest(tmp_path):
    _make(tmp_path, "a", 1)
    b = _make(tmp_path, "b", 3)
    a = _make(tmp_path, "a", 2)
    assert os.readlink(tmp_path / "a/latest") == a.path.name
    assert run_dir.open("latest", tmp_path) == run_dir.RunDir(b.path.resolve())
    assert run_dir.open(tmp_path / "a/latest", tmp_path).path == a.path.resolve()
    assert run_dir.open("a/latest", tmp_path).path == a.path.resolve()
    assert run_dir.open(a.path, "elsewhere").path == a.path.resolve()
    (tmp_path / "a/latest").unlink()  # a file system without links
    assert run_dir.open(tmp_path / "a/latest", tmp_path).path == a.path.resolve()


def test_latest_orders_a_second_of_several_runs_by_number(tmp_path):
    runs = [_make(tmp_path, "a", 1) for _ in range(11)]
    assert run_dir.open("latest", tmp_path).path == runs[-1].path.resolve() and runs[-1].path.name.endswith("_10")


def _begin(runs: Path, name: str, started_at: str) -> run_dir.RunDir:
    """A run whose training began at a time."""
    run = run_dir.RunDir(runs / "a" / name)
    run.path.mkdir(parents=True)
    run.config_path.write_text("task: {}\n")
    begun = dataclasses.replace(StatusFile(run.status_path).status, started_at=started_at)
    run.status_path.write_text(json.dumps(dataclasses.asdict(begun)))
    run.update_latest()
    return run


def _every_latest(runs: Path) -> set[Path]:
    """What `latest` means: as a link, and in each way of the command line."""
    named = [run_dir.open(spec, runs).path for spec in ("latest", "a/latest", runs / "a" / "latest")]
    return {*named, (runs / "a" / "latest").resolve()}


def test_latest_is_the_run_that_was_started_last(tmp_path):
    """A resume and a build that takes long make no run newer."""
    old = _begin(tmp_path, "2026-01-01_12-00-00", "2026-01-01T12:00:00+00:00")
    new = _begin(tmp_path, "2026-01-01_12-00-01", "2026-01-01T12:00:01+00:00")
    with StatusFile(old.status_path):  # a resume
        old.config_path.write_text("task: {}\n")
        old.update_latest()
        assert _every_latest(tmp_path) == {new.path.resolve()}
    (tmp_path / "a/latest").unlink()
    (tmp_path / "a/latest").symlink_to(old.path.name)  # as an older ksim left it
    assert run_dir.open("a/latest", tmp_path).path == new.path.resolve()
    old.update_latest()
    assert _every_latest(tmp_path) == {new.path.resolve()}
    shutil.rmtree(new.path)
    assert run_dir.open("a/latest", tmp_path).path == old.path.resolve()


def test_the_order_is_true_when_clocks_are_put_back(tmp_path):
    """From 02:59 summer time to 02:00 winter time; the names are in local time."""
    summer = _begin(tmp_path, "2026-10-25_02-59-00", "2026-10-25T02:59:00+02:00")
    winter = _begin(tmp_path, "2026-10-25_02-00-00", "2026-10-25T02:00:00+01:00")
    assert run_dir.list_runs(tmp_path / "a") == [summer.path, winter.path]
    assert _every_latest(tmp_path) == {winter.path.resolve()}


def test_a_run_that_was_renamed_stays_as_old_as_it_is(tmp_path):
    named = _begin(tmp_path, "2026-01-01_12-00-00", "2026-01-01T12:00:00+00:00")
    named.path.rename(tmp_path / "a" / "good_one")
    new = _begin(tmp_path, "2026-01-01_12-00-01", "2026-01-01T12:00:01+00:00")
    (tmp_path / "a/good_one/config.yaml").touch()
    assert _every_latest(tmp_path) == {new.path.resolve()}


_BEGIN = """
import json, sys
from pathlib import Path
from ksim.store.run_dir import RunDir
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[2]), 60, 3):
    run = RunDir(Path(sys.argv[1]) / "a" / f"2026-01-01_12-00-{i:02d}")
    run.path.mkdir(parents=True)
    run.status_path.write_text(json.dumps({"started_at": f"2026-01-01T12:00:{i:02d}+00:00"}))
    run.config_path.write_text("")
    run.update_latest()
"""


def test_latest_from_several_processes_at_once(tmp_path):
    command = [sys.executable, "-c", _BEGIN, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen([*command, str(i)], text=True, **pipes) for i in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert os.readlink(tmp_path / "a/latest") == "2026-01-01_12-00-59"
    assert not list((tmp_path / "a").glob(".latest*"))


def test_where_links_fail_nothing_else_does(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", fail)
    run = _make(tmp_path, "a", 1)
    assert [p.name for p in (tmp_path / "a").iterdir()] == [run.path.name]


def test_what_is_no_run_is_said_with_what_there_is(tmp_path):
    with pytest.raises(KsimError, match="no run in"):
        run_dir.open("latest", tmp_path)
    with pytest.raises(KsimError, match="does not exist; there is no run"):
        run_dir.open("runs/x", tmp_path)
    run = _make(tmp_path, "a", 1)
    with pytest.raises(KsimError, match=f"is not a run directory .*: {run.path}"):
        run_dir.open(tmp_path / "a", tmp_path)
    with pytest.raises(KsimError, match=f"does not exist; .*: {run.path}"):
        run_dir.open(run.path.with_name("2026-01-01"), tmp_path)
    run.checkpoints.mkdir()
    with pytest.raises(KsimError, match=f"did you mean {run.path}"):
        run_dir.open(run.checkpoints, tmp_path)


_LOCK = """
import sys
from pathlib import Path
from ksim.errors import KsimError
from ksim.store.run_dir import RunDir
try:
    with RunDir(Path(sys.argv[1])).lock():
        print("locked", flush=True)
        sys.stdin.read()
except KsimError as error:
    print(error)
"""


def test_one_process_owns_a_run(tmp_path):
    run = run_dir.RunDir(tmp_path)
    command = [sys.executable, "-c", _LOCK, str(tmp_path)]
    with run.lock():
        said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
        assert f"in use by process {os.getpid()} on {os.uname().nodename}" in said
        with pytest.raises(KsimError, match="in use"), run.lock():
            pass
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "locked\n"
    with pytest.raises(KsimError, match=f"process {other.pid} "), run.lock():
        pass
    other.kill()
    other.communicate()
    with run.lock():
        pass
