"""The metrics file: whole lines of valid JSON."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ksim.errors import KsimError
from ksim.store import metrics


def _write(path: Path, *steps: int) -> None:
    with metrics.MetricsWriter(path) as writer:
        for step in steps:
            writer.write(step, {"return": step / 10})


def test_lines_are_there_at_once(tmp_path):
    path = tmp_path / "run/metrics.jsonl"
    writer = metrics.MetricsWriter(path)
    writer.write(1, {"a": np.float32(0.5), "n": 3, "stage": "walk"})
    writer.write(2, {"a": float("nan"), "b": np.inf, "c": 1.0})
    assert metrics.read(path) == [
        {"step": 1, "a": 0.5, "n": 3, "stage": "walk"},
        {"step": 2, "a": None, "b": None, "c": 1.0, "nonfinite": 2},
    ]
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON
    writer.sync()
    writer.close()
    writer.close()
    assert metrics.read(tmp_path / "absent") == []


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_line_that_was_cut_off_is_removed(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    _write(path, 1, 2)
    os.truncate(path, path.stat().st_size - cut)
    assert [line["step"] for line in metrics.read(path)] == ([1] if cut < 28 else [])
    _write(path, 2, 3)
    assert [line["step"] for line in metrics.read(path)] == [1, 2, 3]


def test_a_first_line_that_was_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "ret')
    _write(path, 1)
    assert metrics.read(path) == [{"step": 1, "return": 0.1}]


def test_truncate_after(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write(path, 1, 2, 3, 4)
    before = path.read_bytes()
    with metrics.MetricsWriter(path) as writer:
        writer.truncate_after(9)
        assert path.read_bytes() == before
        writer.truncate_after(2)
        writer.write(3, {"return": 0.3})
        writer.write(4, {"return": 0.4})
    assert path.read_bytes() == before
    with metrics.MetricsWriter(path) as writer:
        writer.truncate_after(0)
    assert path.read_bytes() == b""


def test_a_line_that_tells_no_step_belongs_to_those_before_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"return": 0.1}\n')
    _write(path, 1, 2)
    with metrics.MetricsWriter(path) as writer:
        writer.truncate_after(1)
    assert metrics.read(path) == [{"return": 0.1}, {"step": 1, "return": 0.1}]


def test_a_damaged_line_is_left_out_and_said(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    _write(path, 1, 2, 3)
    path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"step" 2'))
    assert [line["step"] for line in metrics.read(path)] == [1, 3]
    assert "damaged" in caplog.text


def test_who_reads_may_take_the_warnings(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n[2]\n\xff\xfe\n{"step": 4}\n{"step": 5, "ret')
    told: list[str] = []
    assert [line["step"] for line in metrics.read(path, told.append)] == [1, 4]
    assert told == [
        f"{path}: the line at byte 12 is damaged and left out",
        f"{path}: the line at byte 16 is damaged and left out",
        f"{path}: the last line is cut off and left out",
    ]
    assert not caplog.text


def test_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.MetricsWriter(path)
    writer.write(1, {})
    real = os.write

    def full(fd, data):
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return real(fd, data[:9])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(KsimError, match="No space left"):
        writer.write(2, {"a": 1.0})
    assert path.read_bytes() == b'{"step": 1}\n'
