"""CPUs that a process may use: affinity masks and Slurm jobs, in processes of their own."""

import json
import os

import pytest
from support.child import output

from ksim.system import cpus

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks are Linux's")
NO_JOB = {"SLURM_JOB_ID": "", "SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": ""}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of 16 CPUs, and no job."""
    for name in NO_JOB:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 16),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "8"}, 4),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "32"}, 16),  # bound to fewer than it was given
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "x"}, 16),
        ({"SLURM_CPUS_PER_TASK": "4"}, 16),  # a variable left over, and no job
    ],
)
def test_a_job_counts_its_own_cpus(monkeypatch, variables, count):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cpus.available() == count


USED = """
import json, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
import jax, jax.numpy as jnp
from ksim.system import jax_setup
from ksim.physics import choose_engine
jax_setup.prepare(sys.argv[2])
jnp.zeros(1).block_until_ready()
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(json.dumps([choose_engine("mujoco", "cpu").reason.split(",")[0], names.count("tf_XLAEigen")]))
"""
needs_2_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")


def test_threads_follow_the_affinity_mask():
    """One thread per CPU that the process may use, for MuJoCo and for XLA."""
    assert json.loads(output(USED, "1", "mujoco", **NO_JOB)) == ["C MuJoCo on 1 CPU thread", 1]


@needs_2_cpus
def test_threads_follow_the_slurm_job_where_the_cluster_binds_nobody():
    job = {**NO_JOB, "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    assert json.loads(output(USED, "2", "mujoco", **job)) == ["C MuJoCo on 1 CPU thread", 1]
    assert json.loads(output(USED, "2", "mjx", **job)) == ["C MuJoCo on 1 CPU thread", 8]  # MJX hangs on fewer
