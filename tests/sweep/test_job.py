"""What a job does with its run directory, and with a cluster's signals."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from ksim.config.compose import compose, freeze
from ksim.errors import KsimError
from ksim.store import status
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile
from ksim.sweep import job as jobs
from ksim.sweep.job import Job, Preemption
from ksim.training.stop import StopRequest


@pytest.fixture
def run(tmp_path) -> RunDir:
    found = RunDir(tmp_path / "0_seed=1")
    found.path.mkdir()
    found.config_path.write_text(freeze(compose(["task=cartpole_balance", "seed=1"])))
    return found


@pytest.fixture
def trained(monkeypatch):
    """Stands for the training; what it was called with."""
    calls = []

    def train(cfg, run_dir, *, resume, stop):
        calls.append((cfg.seed, resume, type(stop).__name__))
        with StatusFile(run_dir.status_path):
            (run_dir.eval / "final").mkdir(parents=True)
            (run_dir.eval / "final" / "metrics.json").write_text(json.dumps({"summary": {"return": 3.5}}))

    monkeypatch.setattr("ksim.training.loop.train", train)
    return calls


def test_it_trains_once(run, trained):
    assert Job(run.path)() == 3.5
    assert Job(run.path)() == 3.5
    assert trained == [(1, False, "StopRequest")]


def test_it_goes_on_where_there_is_a_checkpoint(run, trained):
    (run.checkpoints / "128").mkdir(parents=True)
    Job(run.path)()
    assert trained == [(1, True, "StopRequest")]


def test_it_waits_for_another_process_and_then_has_nothing_to_do(run, trained, monkeypatch):
    monkeypatch.setattr(jobs, "_LOOK_AGAIN_S", 0.05)
    returned = []
    with run.lock():
        waiting = threading.Thread(target=lambda: returned.append(Job(run.path)()))
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive() and "waiting for it" in run.log_path.read_text()
        StatusFile(run.status_path).end("completed")
    waiting.join(timeout=10)
    assert returned == [None] and trained == []


def test_a_damaged_config_is_a_failure_that_is_told(run, trained):
    run.config_path.write_text("nonsense: 1\n")
    with pytest.raises(KsimError, match="nonsense"):
        Job(run.path)()
    found = status.read(run.status_path)
    assert found is not None and found.state == "failed" and "nonsense" in str(found.error)
    assert "nonsense" in run.log_path.read_text() and trained == []


def test_what_submitit_sends_is_small_and_the_same_after_a_requeue(run):
    again = Job(run.path).checkpoint()
    assert again.function == Job(run.path) and again.args == ()


@pytest.fixture
def requeued(monkeypatch):
    """Stands for submitit's handler of its own signal, which requeues and exits."""
    calls = []

    def handler(signum, frame):
        calls.append(signum)
        raise SystemExit(-1)

    before = signal.signal(Preemption.requeue_signal, handler)
    yield calls
    signal.signal(Preemption.requeue_signal, before)


def test_sigterm_is_a_hint(tmp_path, requeued):
    """The training saves and goes on; the status tells that it was about to be taken away, until it ends."""
    run = RunDir(tmp_path)
    with StatusFile(run.status_path) as current, Preemption() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signum == signal.SIGTERM
            stop.saved(current, run, 128)
            assert stop.signum is None
        current.update(256)
        found = status.read(run.status_path)
        assert found is not None and (found.state, found.step, found.ended_at) == ("preempted", 256, None)
    assert status.read(run.status_path).state == "completed" and requeued == []


@pytest.mark.parametrize("signals", [[Preemption.requeue_signal], [Preemption.requeue_signal, signal.SIGTERM]])
def test_submitits_signal_is_answered_after_the_save(tmp_path, requeued, signals):
    run = RunDir(tmp_path)
    with pytest.raises(SystemExit), StatusFile(run.status_path) as current, Preemption() as stop:
        for signum in signals:
            os.kill(os.getpid(), signum)
        assert requeued == []
        stop.saved(current, run, 128)
    assert requeued == [Preemption.requeue_signal]
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.step) == ("preempted", 128)


def test_where_slurm_requeues_by_itself_the_training_goes_on_until_it_is_killed(tmp_path):
    def handler(signum, frame):
        raise subprocess.CalledProcessError(1, ["scontrol", "requeue"])  # as submitit's does then

    before = signal.signal(Preemption.requeue_signal, handler)
    try:
        run = RunDir(tmp_path)
        with StatusFile(run.status_path) as current, Preemption() as stop:
            os.kill(os.getpid(), Preemption.requeue_signal)
            stop.saved(current, run, 128)
            assert status.read(run.status_path).state == "preempted"
    finally:
        signal.signal(Preemption.requeue_signal, before)


def test_sigterm_while_nothing_is_left_to_save(tmp_path):
    """As in the final evaluation, which goes on: Slurm may take the job away in any moment, or not at all."""
    run = RunDir(tmp_path)
    with StatusFile(run.status_path) as current:
        current.update(256)
        stop = Preemption()
        with stop.at_once(lambda: stop.saved(current, run, 256)):
            os.kill(os.getpid(), signal.SIGTERM)
            found = status.read(run.status_path)
            assert found is not None and (found.state, found.step, found.ended_at) == ("preempted", 256, None)
            assert stop.signum is None
    assert status.read(run.status_path).state == "completed"


@pytest.mark.parametrize("is_late", [False, True])
def test_submitits_signal_while_nothing_is_left_to_save(tmp_path, requeued, is_late):
    """Also one that came in the last chunk of the training."""
    run = RunDir(tmp_path)
    stop = Preemption()
    with pytest.raises(SystemExit), StatusFile(run.status_path) as current:
        current.update(256)
        with stop if is_late else stop.at_once(lambda: stop.saved(current, run, current.status.step)):
            os.kill(os.getpid(), Preemption.requeue_signal)
        with stop.at_once(lambda: stop.saved(current, run, current.status.step)):
            pytest.fail("it went on")
    assert requeued == [Preemption.requeue_signal]
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.step) == ("preempted", 256)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_nothing_is_left_to_save(tmp_path, signum, caplog):
    run = RunDir(tmp_path)
    with pytest.raises(SystemExit) as stopped, StatusFile(run.status_path) as current:
        current.update(256)
        stop = StopRequest()
        with stop.at_once(lambda: stop.saved(current, run, 256)):
            os.kill(os.getpid(), signum)
            pytest.fail("it went on")
    assert stopped.value.code == 128 + signum
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.step) == ("interrupted", 256)


def test_the_handlers_before_come_back(requeued):
    before = signal.getsignal(Preemption.requeue_signal)
    with Preemption():
        assert signal.getsignal(Preemption.requeue_signal) != before
    assert signal.getsignal(Preemption.requeue_signal) is before
