"""Sweeps on a real Slurm: whatever it does to a job, the job ends as if nothing had happened."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from support.cluster import assert_same, make_login, number, resumes, slurm, state, wait_for

from ksim.store import checkpoint, metrics

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

NO_BACKEND = """
import atexit

@atexit.register
def check():
    from jax._src import xla_bridge
    print("backends:", len(xla_bridge._backends))

from ksim.run import main
main()
"""


@pytest.fixture(scope="module", autouse=True)
def time_limit(tmp_path_factory):
    """A job with the shortest time limit there is, a minute; it lasts until it was taken away twice."""
    with make_login(tmp_path_factory.mktemp("time_limit")) as login:
        login.slow()
        delay = "hydra.launcher.signal_delay_s=5"  # Slurm sends the signal up to half a minute before
        yield login, login.start("hydra.sweep.dir=s", "seed=5", "hydra.launcher.timeout_min=1", delay)


def test_a_job_undisturbed(undisturbed):
    assert state(undisturbed) == "completed" and resumes(undisturbed) == 0
    provenance = json.loads(undisturbed.provenance_path.read_text())
    assert provenance["threads"] == 1  # the job's CPUs, not the machine's
    assert provenance["environment"]["SLURM_JOB_ID"] == number(undisturbed)


def test_jobs_that_are_requeued_preempted_and_killed(login, undisturbed):
    """Four times the same training: one requeued, one killed, two (or more) preempted by a partition above theirs.

    Meanwhile their YAML files become others.
    """
    login.slow()
    sweep = ("hydra.sweep.dir=s", "seed=5", "checkpoint.keep=2,3,4,5")
    launcher = login.start(*sweep, code=NO_BACKEND)
    wait_for(lambda: len(login.jobs("s")) == 4, "four frozen jobs")
    jobs = login.jobs("s")
    wait_for(lambda: all(checkpoint.steps(run.checkpoints) for run in jobs), "a checkpoint of each job")
    for name in ("task/slow", "algo/tiny"):
        (login.path / "my" / f"{name}.yaml").write_text("nonsense: [\n")

    slurm("scancel", "--signal=KILL", number(jobs[0]))
    slurm("scontrol", "requeue", number(jobs[1]))
    wait_for(lambda: resumes(jobs[1]), "the requeued job")
    assert "saved at" in jobs[1].log_path.read_text()

    slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    wait_for(lambda: [state(run) for run in jobs[2:]] == ["preempted", "preempted"], "two preempted jobs")
    wait_for(lambda: all(resumes(run) for run in jobs[2:]), "the preempted jobs")
    login.fast()
    printed, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 1, printed
    assert "backends: 0" in printed
    assert (
        re.search(rf"{re.escape(jobs[0].path.name)}: \w+ at [0-9,]+ steps; see", printed)
        and "1 of 4 jobs did not complete" in printed
    )
    for run in jobs[1:]:
        assert state(run) == "completed"
        assert_same(run, undisturbed)

    for name in ("task/slow", "algo/tiny"):  # whole again, and yet others
        text = (make_login(login.path).path / "my" / f"{name}.yaml").read_text()
        (login.path / "my" / f"{name}.yaml").write_text(
            text.replace("num_learning_epochs: 2", "num_learning_epochs: 3")
        )
    before = [run.log_path.read_text() for run in jobs[1:]]
    code, printed = login.run(*sweep)
    assert code == 0, printed
    assert "4 jobs (3 done before)" in printed and "what YAML says now differs: algo.num_learning_epochs" in printed
    assert OmegaConf.load(jobs[0].config_path).algo.num_learning_epochs == 2
    assert state(jobs[0]) == "completed" and resumes(jobs[0]) == 1
    assert_same(jobs[0], undisturbed)
    assert [run.log_path.read_text() for run in jobs[1:]] == before


def test_a_pack_that_is_requeued(login):
    """Two jobs to a pack: two jobs of Slurm's, of which one is taken away and given back."""
    login.slow()
    launcher = login.start("hydra.sweep.dir=s", "seed=5,6,7,8", "hydra.launcher.jobs_per_pack=2")
    wait_for(lambda: len(login.jobs("s")) == 4, "four frozen jobs")
    jobs = login.jobs("s")
    wait_for(lambda: all(checkpoint.steps(run.checkpoints) for run in jobs), "a checkpoint of each job")
    assert number(jobs[0]) == number(jobs[1]) != number(jobs[2]) == number(jobs[3])
    slurm("scontrol", "requeue", number(jobs[0]))
    wait_for(lambda: all(resumes(run) for run in jobs[:2]), "the requeued pack")
    login.fast()
    printed, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, printed
    assert [state(run) for run in jobs] == ["completed"] * 4 and not any(resumes(run) for run in jobs[2:])
    steps = [[line["step"] for line in metrics.read(run.metrics_path)] for run in jobs]
    assert all(step == steps[0] == sorted(set(step)) for step in steps)  # nothing is lost, nothing twice


def test_a_job_that_reaches_its_time_limit_twice(time_limit, undisturbed):
    login, process = time_limit
    wait_for(lambda: login.jobs("s"), "a frozen job")
    (run,) = login.jobs("s")
    wait_for(lambda: resumes(run) >= 2, "two time limits", seconds=400)
    login.fast()
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    assert run.log_path.read_text().count(": this job is timed-out.") >= 2
    assert state(run) == "completed"
    assert_same(run, undisturbed)


def test_a_sweep_whose_launcher_dies(login):
    """An array, two jobs at once, each with a GPU of its own; a job fails; the launcher is killed in the middle."""
    login.slow()
    sweep = ("hydra.sweep.dir=s", "seed=1,2,3", "algo.learning_rate=5e-4,1e-3", "algo.total_steps=6_400")
    sweep = (*sweep, "hydra.launcher.array_parallelism=2", "hydra.launcher.gpus_per_node=1")
    launcher = login.start(*sweep)
    wait_for(lambda: len(login.jobs("s")) == 6, "six frozen jobs")
    jobs = login.jobs("s")
    names = [run.path.name.partition("_")[2] for run in jobs]
    assert names[:2] == [f"algo.learning_rate={rate},seed=1" for rate in ("0.0005", "0.001")]
    jobs[3].checkpoints.touch()  # a file where the folder is to be: this job will fail
    wait_for(lambda: all(run.provenance_path.exists() for run in jobs[:2]), "two jobs at once")
    array = number(jobs[0]).partition("_")[0]
    running = slurm("squeue", "--array", "--noheader", "--states=RUNNING", f"--jobs={array}")
    assert len(running.splitlines()) == 2 and not any(run.status_path.exists() for run in jobs[2:])
    assert all(number(run).startswith(f"{array}_") for run in jobs)
    gpus = [json.loads(run.provenance_path.read_text())["environment"]["CUDA_VISIBLE_DEVICES"] for run in jobs[:2]]
    assert sorted(gpus) == ["0", "1"]
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()

    again = login.start(*sweep)  # at once: jobs that run or wait are waited for, not sent again
    login.fast()
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 1, printed
    done = re.search(r"6 jobs \((\d) done before\)", printed)  # of the two that ran, while the launcher started
    queued = 6 - int(done[1]) if done else 6
    assert queued >= 4 and f"{queued} are in the queue already" in printed, printed
    assert "1 of 6 jobs did not complete" in printed
    assert f"{jobs[3].path.name}: failed: " in printed and "Traceback" not in printed
    assert [state(run) for run in jobs] == ["completed"] * 3 + ["failed"] + ["completed"] * 2
    assert "Traceback" in jobs[3].log_path.read_text()

    jobs[3].checkpoints.unlink()
    code, printed = login.run(*sweep)
    assert code == 0 and "6 jobs (5 done before)" in printed
    lines = [[line["step"] for line in metrics.read(run.metrics_path)] for run in jobs]
    assert all(steps == list(range(128, 6_401, 128)) for steps in lines)  # each was trained, and once

    report = [sys.executable, "-m", "ksim.report", "s"]
    done = subprocess.run(report, cwd=login.path, env=login.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(login.path / "s" / "report" / "groups.csv") as file:
        groups = list(csv.DictReader(file))
    assert len(groups) == 2 and all(group["seeds"] == "3" for group in groups), groups
    assert (login.path / "s" / "report" / "curves_slow.png").stat().st_size > 10_000


def test_what_slurm_refuses_is_told_in_its_words(login):
    code, printed = login.run("seed=1,2", "hydra.launcher.partition=nope")
    assert code == 1
    assert "Invalid partition name specified" in printed and "Traceback" not in printed
    assert not list((login.path / "runs").rglob("config.yaml"))


@pytest.mark.parametrize(("key", "value"), [("cpus_per_task", 4), ("timeout_min", 60)])
def test_a_sweep_that_can_never_start_says_so_and_can_be_mended(login, key, value):
    """A partition with 2 CPUs per node for a job, and at most half an hour."""
    small = ("hydra.sweep.dir=s", "seed=5", "hydra.launcher.partition=small", "hydra.launcher.timeout_min=10")
    code, printed = login.run(*small, f"hydra.launcher.{key}={value}")
    assert code == 1 and "Slurm will not start 1 of the jobs" in printed and "Traceback" not in printed, printed
    assert f"hydra.launcher.{key} (now {value})" in printed
    (run,) = login.jobs("s")
    first = number(run)
    assert slurm("squeue", "--noheader", "--format=%T", f"--jobs={first}").split() == ["PENDING"]
    code, printed = login.run(*small)
    assert code == 0 and "1 in the queue could never start: taken back, and sent anew" in printed, printed
    assert number(run) != first and state(run) == "completed"


def test_a_bad_value_sends_nothing(login):
    before = slurm("squeue", "--noheader", "--format=%A", "--name=ksim")
    code, printed = login.run("seed=1,2", "algo.gamma=0.9,1.1")
    assert code == 2 and printed.startswith("error: algo.gamma: must be above 0 and at most 1, not 1.1")
    assert not (login.path / "runs").exists()
    assert slurm("squeue", "--noheader", "--format=%A", "--name=ksim") == before
