"""What is asked of Slurm, with a `squeue` that answers from a file. tests/slurm/ has the real one."""

import pytest

from ksim.store.run_dir import RunDir
from ksim.sweep import slurm


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Makes `squeue` print these lines."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "squeue"

    def answer(*lines: str, code: int = 0) -> None:
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{''.join(line + chr(10) for line in lines)}END\nexit {code}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "_SHORTEST_S", 0.01)
    return answer


@pytest.fixture
def queue(tmp_path):
    return slurm.Queue("me", tmp_path / "s")


def test_jobs_of_other_sweeps_do_not_count(tmp_path, queue, squeue):
    squeue(f"7_0|{tmp_path}/s/.submitit/x.sh", f"7_1|{tmp_path}/s/.submitit/x.sh", f"9|{tmp_path}/s2/x.sh", "3|/a/b.sh")
    assert queue.jobs() == {"7_0", "7_1"}


def test_a_slurm_that_does_not_answer_ends_no_job(tmp_path, queue, squeue):
    squeue(code=1)
    assert queue.jobs() is None
    answers = [None, {"7_0", "7_1"}, None, {"7_1"}, {"7_0", "7_1"}, {"7_1"}, {"7_1"}, None, set(), set()]
    queue.jobs = lambda: answers.pop(0)
    assert list(queue.ended(["7_0", "7_1"])) == ["7_0", "7_1"]  # missing once is not enough: it may be requeued
    assert answers == []


def test_a_run_remembers_its_job(tmp_path):
    run = RunDir(tmp_path)
    assert slurm.recorded(run) is None
    slurm.record(run, "12_3")
    assert slurm.recorded(run) == "12_3"
    (tmp_path / "slurm.json").write_text("{")
    assert slurm.recorded(run) is None
