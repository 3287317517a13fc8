"""TensorBoard's event files, read by TensorBoard's own format."""

import struct
import subprocess
import sys

import pytest

from ksim.loggers.logger import RunInfo

pytest.importorskip("tensorboardX")

from tensorboardX.proto.event_pb2 import Event

from ksim.loggers.tensorboard import TensorBoardLogger


def events(run):
    """All events of a run, oldest file first: records of length, checksum, event, checksum."""
    found = []
    for path in sorted((run / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def scalars(run):
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(run)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def test_numbers_are_scalars_at_their_step(tmp_path):
    logger = TensorBoardLogger(run=RunInfo(tmp_path, "task/run", {"algo": {"gamma": 0.5}}))
    logger.log({"return": 1.5, "falls": None, "kl": float("nan"), "nan_guard": 2}, 10)
    logger.log({"return": 2.5}, 20)
    logger.log_video("video", tmp_path / "video.mp4", 20)
    logger.finish()
    assert scalars(tmp_path) == [("return", 10, 1.5), ("nan_guard", 10, 2.0), ("return", 20, 2.5)]
    texts = b"".join(value.tensor.SerializeToString() for event in events(tmp_path) for value in event.summary.value)
    assert b'"gamma": 0.5' in texts and b"video.mp4" in texts


def test_a_resume_takes_away_what_was_logged_after_its_checkpoint(tmp_path, monkeypatch):
    """TensorBoard drops events from the step of a session's start on."""
    about = RunInfo(tmp_path, "task/run", {})
    for start in (10, 20):
        logger = TensorBoardLogger(run=about)
        for step in range(start, start + 30, 10):
            logger.log({"return": float(start)}, step)
        logger.finish()
    starts = [event.step for event in events(tmp_path) if event.session_log.status == event.session_log.START]
    assert starts == [10, 20]


def test_without_numbers_nothing_is_written(tmp_path):
    TensorBoardLogger(run=RunInfo(tmp_path, "task/run", {})).finish()
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_said_before_anything_is_made(tmp_path):
    code = "import sys; sys.modules['tensorboardX'] = None; from ksim.run import main; main()"
    command = [sys.executable, "-c", code, "task=cartpole_balance", "logger=tensorboard"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: logger.tensorboard: needs the extra 'tensorboard'; install it with: pip")
    assert list(tmp_path.iterdir()) == []
