"""A training whose job has several tasks, on a real Slurm: one of them writes, all of them end, and it goes on."""

import os
import signal
from pathlib import Path

import pytest
from support.cluster import assert_same, number, resumes, slurm, state, wait_for

from ksim.store import checkpoint, metrics
from ksim.store.run_dir import RunDir

# On request only (-m "slurm and training"): it fails. The second task closes over an array of all processes
# (float32[2], of the env), which JAX refuses to compile, and the job dies.
pytestmark = [pytest.mark.slurm, pytest.mark.training]

# Two tasks on the one node that there is; with nodes=2 they would be on two. MJX is compiled quickly, and each chunk is
# a checkpoint, so that the training lasts.
TOGETHER = """
seed=5 task=cartpole_balance physics=mjx task.episode_length_s=0.5 algo.total_steps=200_000 checkpoint.every_s=1e-6
hydra.launcher.tasks_per_node=2
""".split()
QUICK = "hydra.launcher.setup=['export XLA_FLAGS=--xla_backend_optimization_level=0']"


def task(job: str, rank: int) -> int | None:
    """The process of one of a job's tasks."""
    array, _, index = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={index}", f"SLURM_PROCID={rank}"}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"submitit.core._submit" not in (path / "cmdline").read_bytes().split(b"\0"):
                continue
            if wanted <= set((path / "environ").read_text(errors="replace").split("\0")):
                return int(path.name)
        except OSError:
            continue
    return None


def newest(run: RunDir) -> int:
    return max(checkpoint.steps(run.checkpoints), default=0)


def test_two_tasks_train_together_and_go_on_wherever_they_were_stopped(login):
    """Requeued by Slurm, then one of them killed; it ends as a training that nothing disturbed."""
    sweep = ("hydra.sweep.dir=s", *TOGETHER, QUICK)
    launcher = login.start(*sweep)
    wait_for(lambda: login.jobs("s"), "a frozen job")
    (run,) = login.jobs("s")
    wait_for(lambda: newest(run), "a checkpoint")
    assert "one training over 2 devices of 2 processes (cpu)" in run.log_path.read_text()
    slurm("scontrol", "requeue", number(run))
    wait_for(lambda: resumes(run), "the requeued job")
    step = newest(run)
    wait_for(lambda: newest(run) > step, "a step more")

    first, second = (task(number(run), rank) for rank in (0, 1))
    assert first and second
    os.kill(second, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{first}"), "the end of the other one", seconds=60)
    printed, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1 and "1 of 1 jobs did not complete" in printed, printed

    code, printed = login.run(*sweep)  # the same command again
    assert code == 0 and state(run) == "completed" and resumes(run) == 2, printed
    steps = [line["step"] for line in metrics.read(run.metrics_path)]
    assert steps == list(range(steps[0], steps[-1] + 1, steps[0]))  # nothing is lost, nothing twice
    code, printed = login.run("hydra.sweep.dir=t", *TOGETHER, QUICK)
    assert code == 0, printed
    (undisturbed,) = login.jobs("t")
    assert_same(run, undisturbed)
