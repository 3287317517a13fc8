"""The status file says what happened, whatever happened."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ksim.errors import ConfigError, KsimError
from ksim.store import files, status


def _end(path: Path, error: BaseException | None) -> Any:
    try:
        with status.StatusFile(path) as current:
            current.update(10)
            found = status.read(path)
            assert found is not None and found.state == "running" and found.step == 10 and not found.dead
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    return status.read(path)


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (None, "completed", None),
        (SystemExit(0), "completed", None),
        (SystemExit(143), "interrupted", None),
        (KeyboardInterrupt(), "interrupted", None),
        (ValueError("broken"), "failed", "ValueError: broken"),
        (ConfigError("task.x: wrong"), "failed", "task.x: wrong"),
    ],
)
def test_how_a_run_ends(tmp_path, error, state, message):
    found = _end(tmp_path / "status.json", error)
    assert (found.state, found.error, found.step) == (state, message, 10)
    assert found.ended_at >= found.started_at and found.resumed_at is None


def test_what_the_trainer_says_holds(tmp_path):
    with status.StatusFile(tmp_path / "status.json") as current:
        current.end("preempted", step=20)
    found = status.read(tmp_path / "status.json")
    assert found is not None and (found.state, found.step) == ("preempted", 20)


def test_a_resume_keeps_the_start(tmp_path):
    path = tmp_path / "status.json"
    first = _end(path, KeyboardInterrupt())
    files.write_atomic(path, files.json_bytes({**dataclasses.asdict(first), "started_at": "2020-01-01T00:00:00+00:00"}))
    with status.StatusFile(path):
        found = status.read(path)
    assert found is not None and found.step == 10  # a resume that dies before it has read its checkpoint loses none
    assert found.started_at.startswith("2020") and found.resumed_at and found.ended_at is None


def test_a_dead_process_is_recognised(tmp_path):
    path = tmp_path / "status.json"
    code = "import os, sys; from pathlib import Path; from ksim.store.status import StatusFile\n"
    code += "StatusFile(Path(sys.argv[1])).__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, path])
    found = status.read(path)
    assert found is not None and found.state == "running" and found.dead
    assert not dataclasses.replace(found, host="another").dead


def test_a_damaged_or_absent_file(tmp_path):
    path = tmp_path / "status.json"
    assert status.read(path) is None
    for content in (b"", b"{", b"[]", b'{"state": "running"}'):
        path.write_bytes(content)
        with pytest.raises(KsimError, match="cannot be read"):
            status.read(path)
    assert _end(path, None).state == "completed"
    assert json.loads(path.read_text())["host"] == files.host()


def test_a_status_that_cannot_be_written_ends_nothing(tmp_path, caplog):
    path = tmp_path / "absent" / "status.json"
    with status.StatusFile(path):
        pass
    assert f"{path} cannot be written" in caplog.text


def test_each_sign_of_life_tells_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "now", iter("abcd").__next__)
    current = status.StatusFile(tmp_path / "status.json")
    for act, expected in (
        (lambda: current.update(1), "b"),
        (lambda: current.preempted(2), "c"),
        (lambda: current.end("completed"), "d"),
    ):
        act()
        found = status.read(tmp_path / "status.json")
        assert found is not None and (found.started_at, found.updated_at) == ("a", expected)
    assert found.ended_at == "d"


def test_where_the_gate_was_passed_is_kept(tmp_path):
    path = tmp_path / "status.json"
    with status.StatusFile(path) as current:
        current.passed(300, 26.0)
    for _ in range(2):  # and a resume, which has nothing left to train
        found = status.read(path)
        assert found is not None and found.gate == {"step": 300, "time_s": 26.0}
        with status.StatusFile(path):
            pass


def test_preempted_stays_until_it_is_taken_up_again(tmp_path):
    path = tmp_path / "status.json"
    with pytest.raises(SystemExit), status.StatusFile(path) as current:
        current.preempted(10)
        current.update(20)
        found = status.read(path)
        assert found is not None and (found.state, found.step, found.ended_at) == ("preempted", 20, None)
        raise SystemExit(255)
    found = status.read(path)
    assert found is not None and found.state == "preempted" and found.ended_at is not None
    with status.StatusFile(path):
        found = status.read(path)
        assert found is not None and found.state == "running"
