"""How many CPUs this process may use: those of its cluster job, not those of the machine."""

import os


def available() -> int:
    """The affinity mask, and at most what Slurm gave the job: many clusters bind nobody to their share of a node."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _of_slurm_job() or usable)


def _of_slurm_job() -> int | None:
    """CPUs of a task of the Slurm job that this process belongs to; None outside of a job."""
    if not os.environ.get("SLURM_JOB_ID"):
        return None
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):  # the first is set only where it was asked for
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return None
