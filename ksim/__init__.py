"""Train policies for simulated robots: MuJoCo physics, PPO in JAX, Hydra configuration, one directory a run."""

import os

__version__ = "0.1.0"

# XLA on few CPU cores can hang for ever: batched LAPACK calls (MJX's Cholesky) wait on the thread pool that they run
# on. A pool of 8 has not hung. The variable is read when JAX's CPU backend starts; one that is set already wins.
_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("PJRT_NPROC", str(max(8, _CPUS)))
