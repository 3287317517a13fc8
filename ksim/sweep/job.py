"""One job of a sweep, wherever it runs: it goes on where its run directory stands."""

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import ClassVar

import submitit
from submitit.core.utils import DelayedSubmission

from ksim.errors import KsimError
from ksim.store import checkpoint
from ksim.store import status as status_file
from ksim.store.lock import InUse
from ksim.store.run_dir import RunDir
from ksim.store.status import Status, StatusFile, describe
from ksim.system import foreign, processes, trust
from ksim.system.logs import logging_to
from ksim.training.checks import load_checked
from ksim.training.stop import StopRequest

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 5.0


@dataclass(frozen=True)
class Job:
    """What a launcher sends away: the path of a run directory that holds its frozen config, and nothing else.

    Whatever happens to the YAML files, and however often the job is taken away and given back, it is this training.

    Attributes:
        path: the run directory.
        cpus: bind the process to these; empty: leave it as it is.
    """

    path: Path
    cpus: tuple[int, ...] = ()

    def __call__(self) -> float | None:
        """Train to the end, from the newest checkpoint if there is one; a completed run is left as it is.

        The tasks of a Slurm job of several train together.

        Returns:
            The objective; see `objective`.

        Raises:
            Exception: whatever ended the training; `status.json` says failed and why, `train.log` has the traceback.
        """
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)
        with processes.together(of_slurm=os.environ.get("SUBMITIT_EXECUTOR") == "slurm"):
            if processes.leads():
                return self._lead()
            _follow()
            return None

    def _lead(self) -> float | None:
        run = RunDir(self.path)
        with logging_to(run.log_path):
            wait_for_owner(run)
            if not completed(run):
                train(run, stop_request())
        return objective(run)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts when it requeues the job: the same again, as its state is in the run directory."""
        return DelayedSubmission(self)


class Preemption(StopRequest):
    """Signals to a Slurm job. They are hints: the training saves and goes on, as only Slurm knows what comes next.

    After SIGTERM (preemption, `scontrol requeue`, `scancel`) Slurm kills the job, and gives it back where it is to be.
    After submitit's own signal (the time limit is near) submitit requeues the job.
    """

    requeue_signal: ClassVar[int] = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
    signals = (signal.SIGTERM, requeue_signal)

    def note(self, status: StatusFile, run_dir: RunDir, step: int) -> None:
        """Note that Slurm wants the CPUs back."""
        status.preempted(step)
        log.info("saved at %s steps", f"{step:,}")

    def leave(self) -> None:
        """Requeue if the time limit is near, and go on."""
        signum, self.signum = self.signum, None
        if signum == self.requeue_signal:
            try:
                self._before[signum](signum, None)  # submitit's handler: it counts, requeues and exits
            except subprocess.SubprocessError as error:
                # Slurm refuses where it is requeueing the job by itself at this moment; it then ends this process.
                log.info("not requeued (%s); going on", error)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum != self.requeue_signal:
            self.signum = signum
        if self._answer is not None:
            self._answer()
        else:
            log.info("%s: saving after this chunk", signal.Signals(signum).name)


def _follow() -> None:
    from ksim.training.follower import follow  # late: launchers run where no JAX backend may be started

    follow(stop_request())


def completed(run: RunDir) -> bool:
    """Whether the run has nothing left to do."""
    found = status(run)
    return found is not None and found.state == "completed"


def status(run: RunDir) -> Status | None:
    """The run's status; None also where the file is damaged."""
    try:
        return status_file.read(run.status_path)
    except KsimError:
        return None


def objective(run: RunDir) -> float | None:
    """What a search maximizes: the mean return of the final evaluation; None where there was none."""
    try:
        return float(foreign.parse_json((run.eval / "final" / "metrics.json").read_bytes())["summary"]["return"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train(run: RunDir, stop: StopRequest) -> None:
    """Train a run to its end, from its newest checkpoint if it has one."""
    try:
        from ksim.training import loop  # late: launchers run where no JAX backend may be started

        with trust.everything():  # the launcher has looked, and its user's folder may not be on this machine
            cfg = load_checked(run.config_path)
        resume = bool(checkpoint.steps(run.checkpoints))
    except Exception as error:
        log.exception("the job cannot begin")
        StatusFile(run.status_path).end("failed", error=describe(error))
        raise
    loop.train(cfg, run, resume=resume, stop=stop)


def wait_for_owner(run: RunDir) -> None:
    """Until no other process works on the run: an earlier sweep's job may still be at it."""
    told = False
    while True:
        try:
            with run.lock():
                return
        except InUse as error:
            if not told:
                log.info("%s; waiting for it", error)
                told = True
            time.sleep(_LOOK_AGAIN_S)


def stop_request() -> StopRequest:
    """What signals to this process ask of its trainings, by what has started it."""
    try:
        cluster = submitit.JobEnvironment().cluster
    except RuntimeError:  # in no job: in the launching process itself
        return StopRequest()
    if cluster == "slurm":
        return Preemption()
    # A process of its own on the launcher's machine: Ctrl-C is the launcher's, which tells it with SIGTERM.
    os.setsid()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    return StopRequest()
