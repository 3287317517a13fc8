"""What is asked of Slurm, with a `squeue` that answers from a file. tests/slurm/ has the real one."""

import pytest

from ksim.store.run_dir import RunDir
from ksim.sweep import slurm
from ksim.sweep.slurm import QueuedJob


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
    squeue(
        f"7_0|RUNNING|None|{tmp_path}/s/.submitit/x.sh",
        f"7_1|PENDING|ReqNodeNotAvail, UnavailableNodes:a,b|{tmp_path}/s/.submitit/x|y.sh",
        f"9|PENDING|Priority|{tmp_path}/s2/x.sh",
        "3|RUNNING|None|/a/b.sh",
        "slurm says something",
    )
    jobs = queue.jobs()
    assert jobs == {
        "7_0": QueuedJob("RUNNING", "None"),
        "7_1": QueuedJob("PENDING", "ReqNodeNotAvail, UnavailableNodes:a,b"),
    }
    assert [job.is_waiting for job in jobs.values()] == [False, True]


def test_a_slurm_that_does_not_answer_ends_no_job(tmp_path, queue, squeue):
    squeue(code=1)
    assert queue.jobs() is None
    both, one = dict.fromkeys(["7_0", "7_1"], QueuedJob("RUNNING", "None")), {"7_1": QueuedJob("RUNNING", "None")}
    answers = [None, both, None, one, both, one, one, None, {}, {}]
    queue.jobs = lambda: answers.pop(0)
    seen: list = []
    assert list(queue.ended(["7_0", "7_1"], seen.append)) == ["7_0", "7_1"]  # missing once may mean: being requeued
    assert answers == [] and seen == [both, one, both, one, one, {}, {}]


def test_a_run_remembers_its_job(tmp_path):
    run = RunDir(tmp_path)
    assert slurm.recorded(run) is None
    slurm.record(run, "12_3")
    assert slurm.recorded(run) == "12_3"
    (tmp_path / "slurm.json").write_text("{")
    assert slurm.recorded(run) is None
