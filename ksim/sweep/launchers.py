"""Hydra's launchers as ksim needs them: jobs whose config is frozen, and of which only those not done are started.

Hydra's own compose each job from the YAML files when it starts, and again whenever the cluster gives it back.
"""

import contextlib
import getpass
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from submitit.core.utils import FailedJobError, FailedSubmissionError

from ksim.errors import KsimError
from ksim.store import lock
from ksim.store.run_dir import RunDir
from ksim.store.status import describe
from ksim.sweep import slurm
from ksim.sweep.job import Job, completed, objective, status
from ksim.sweep.packed import PackedJobs, in_packs
from ksim.sweep.plan import Planned, freeze, plan, withdraw
from ksim.sweep.waiting import Waiting, is_hopeless

log = logging.getLogger(__name__)

# Hydra takes plugins from this name space only, so this module has a second name there.
_NAMESPACE = "hydra_plugins.ksim"


class FrozenLauncher(BaseSubmititLauncher):
    """A launcher of frozen jobs; how they are started is left to subclasses."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start what is not done and wait for it.

        Returns:
            For each job its objective, or why it has none.
        """
        setup_globals()
        assert self.config is not None and self.hydra_context is not None
        try:
            self.sweep_dir.mkdir(parents=True, exist_ok=True)
            # Another launcher may be at work on the same folder: the second one goes on where the first one is then.
            with lock.hold(self.sweep_dir, wait=lambda who: log.info("%s; waiting for it", who)):
                jobs = plan(self.hydra_context.config_loader, self.config, job_overrides, initial_job_idx)
                freeze(jobs)
                todo = [job for job in jobs if not completed(job.run)]
                done = f" ({len(jobs) - len(todo)} done before)" if len(todo) < len(jobs) else ""
                log.info("%d job%s%s in %s", len(jobs), "" if len(jobs) == 1 else "s", done, self.sweep_dir)
                self.send(todo)
            if todo:
                self.run(todo)
        except KsimError as error:
            raise CompactHydraException(f"error: {error}") from error
        except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C here, or in a training in this process
            log.info("stopped; %s", self.how_to_go_on())
            raise SystemExit(getattr(stop, "code", 130)) from None
        results = [_result(job) for job in jobs]
        missing = sum(result.status is JobStatus.FAILED for result in results)
        if missing:
            log.info("%d of %d jobs did not complete; to try these again: %s", missing, len(jobs), self.command())
        return results

    def send(self, jobs: Sequence[Planned]) -> None:
        """Send jobs away, if they are; meanwhile no other launcher is at work on the sweep's folder."""

    @abstractmethod
    def run(self, jobs: Sequence[Planned]) -> None:
        """Start jobs and return when all of them have ended, completed or not."""

    @property
    def sweep_dir(self) -> Path:
        """Where the runs of the sweep lie."""
        assert self.config is not None
        return Path(str(self.config.hydra.sweep.dir)).absolute()

    @property
    def folder(self) -> str:
        """The sweep's folder as a shell takes it."""
        return shlex.quote(str(self.sweep_dir))

    def command(self) -> str:
        """The command that goes on with this sweep."""
        return f"python -m ksim.run {shlex.join(sys.argv[1:])}"

    def how_to_go_on(self) -> str:
        """What to tell a user who stopped the launcher."""
        return f"to go on: {self.command()}"

    def executor(self, **changed: Any) -> submitit.AutoExecutor:
        """Submitit's, with the parameters of `hydra.launcher`, some of them changed."""
        params = {name: value for name, value in {**self.params, **changed}.items() if value is not None}
        params.pop("jobs_per_pack", None)  # ours
        init = {f"{self._EXECUTOR}_max_num_timeout": params.pop("max_num_timeout", 0)}
        folder = Path(str(params.pop("submitit_folder"))).absolute()
        executor = submitit.AutoExecutor(folder=folder, cluster=self._EXECUTOR, **init)
        shared = set(BaseQueueConf.__dataclass_fields__)
        executor.update_parameters(**{k if k in shared else f"{self._EXECUTOR}_{k}": v for k, v in params.items()})
        return executor


class LocalLauncher(FrozenLauncher):
    """One job after the other, in this process."""

    def run(self, jobs: Sequence[Planned]) -> None:
        """Train each job; one that fails leaves the others be."""
        for job in jobs:
            log.info("%s", job.run.path.name)
            try:
                Job(job.run.path)()
                _report(job)
            except Exception as error:  # train.log has the traceback, and the others go on
                log.error("%s: failed: %s; see %s", job.run.path.name, describe(error), job.run.log_path)
            if jax := sys.modules.get("jax"):
                jax.clear_caches()  # compiled programs of one job are of no use to the next


class PackedLauncher(FrozenLauncher):
    """Jobs that differ in seeds and numbers alone side by side in one program, in this process."""

    def run(self, jobs: Sequence[Planned]) -> None:
        """Train each pack; one that fails leaves the others be."""
        for pack in in_packs(jobs, self.params.get("jobs_per_pack")):
            log.info("side by side: %s", ", ".join(job.run.path.name for job in pack))
            try:
                PackedJobs(tuple(job.run.path for job in pack))()
            except Exception as error:  # each train.log has the traceback, and the others go on
                log.error("%s", describe(error))
            for job in pack:
                _report(job)
            if jax := sys.modules.get("jax"):
                jax.clear_caches()  # compiled programs of one pack are of no use to the next


class SubmititLocalLauncher(FrozenLauncher):
    """As many jobs at once as this machine has CPUs for, each in a process that survives this one."""

    _EXECUTOR = "local"

    def run(self, jobs: Sequence[Planned]) -> None:
        """Keep every CPU at work until the last job has ended; Ctrl-C stops them all."""
        executor = self.executor()
        free = _shares(sorted(os.sched_getaffinity(0)), self.params.get("cpus_per_task") or 1)
        waiting = list(jobs)
        running: list[tuple[Planned, submitit.Job[Any], tuple[int, ...]]] = []
        log.info("%d at once; follow them: tail -f %s/*/train.log", len(free), self.folder)
        try:
            while waiting or running:
                while waiting and free:
                    planned, cpus = waiting.pop(0), free.pop(0)
                    with _ctrl_c_ignored():  # by the children too: this process tells them what is to be done
                        running.append((planned, executor.submit(Job(planned.run.path, cpus)), cpus))
                time.sleep(0.2)
                for entry in [entry for entry in running if entry[1].done()]:
                    running.remove(entry)
                    free.append(entry[2])
                    _report(entry[0])
        except KeyboardInterrupt:
            log.info("stopping %d jobs ...", len(running))
            for _, job, _ in running:
                os.kill(int(job.job_id), signal.SIGTERM)
            while any(not job.done() for _, job, _ in running):
                time.sleep(0.2)
            raise


class SlurmLauncher(FrozenLauncher):
    """One Slurm array. Jobs that an earlier command sent, and that are still in the queue, are waited for."""

    _EXECUTOR = "slurm"

    def send(self, jobs: Sequence[Planned]) -> None:
        """Send one array of all jobs that are not in the queue."""
        queued = self._queue.jobs()
        if queued is None:
            withdraw(jobs)
            raise KsimError("Slurm's squeue does not answer; nothing was sent")
        recorded = [slurm.recorded(job.run) for job in jobs]
        if hopeless := [number for number in recorded if number in queued and is_hopeless(queued[number])]:
            log.info("%d in the queue could never start: taken back, and sent anew", len(hopeless))
            self._queue.take_back(sorted(set(hopeless)))
        in_queue = queued.keys() - set(hopeless)
        new = [job for job, number in zip(jobs, recorded, strict=True) if number not in in_queue]
        if len(new) < len(jobs):
            log.info("%d are in the queue already", len(jobs) - len(new))
        self._submit(new)

    def run(self, jobs: Sequence[Planned]) -> None:
        """Wait for the jobs in the queue, and show how they fare."""
        packs: dict[str, list[Planned]] = {}
        for job in jobs:
            packs.setdefault(str(slurm.recorded(job.run)), []).append(job)
        waiting = {number: pack[0] for number, pack in packs.items()}
        arrays = ",".join(sorted({number.partition("_")[0] for number in waiting}))
        log.info("Slurm job %s; follow it: squeue --array -j %s; tail -f %s/*/train.log", arrays, arrays, self.folder)
        log.info("the jobs do not need this process; %s", self.how_to_go_on())
        with Waiting(waiting, self.params) as line:
            for number in self._queue.ended(waiting, line.show):
                for job in packs[number]:
                    _report(job)

    def how_to_go_on(self) -> str:
        """The jobs go on by themselves."""
        return f"to wait for them, or do what is missing: {self.command()}"

    @property
    def _queue(self) -> slurm.Queue:
        return slurm.Queue(getpass.getuser(), self.sweep_dir)

    def _submit(self, jobs: Sequence[Planned]) -> None:
        """Send an array, and record the number of each run's job."""
        if not jobs:
            return
        cpus, setup = self.params.get("cpus_per_task"), self.params.get("setup") or []
        is_several = any((self.params.get(key) or 1) > 1 for key in ("nodes", "tasks_per_node"))
        ending_all = ["--kill-on-bad-exit=1"] if is_several else None  # where one process of a training is killed
        if cpus:  # since Slurm 22.05, srun does not take this over from sbatch
            setup = [f"export SRUN_CPUS_PER_TASK={cpus}", *setup]
        try:
            packs = in_packs(jobs, size) if (size := self.params.get("jobs_per_pack") or 1) > 1 else [[j] for j in jobs]
            executor = self.executor(setup=setup, srun_args=ending_all)
            with executor.batch():
                sent = [executor.submit(_callable(pack)) for pack in packs]
        except (subprocess.CalledProcessError, FailedJobError, FailedSubmissionError) as error:
            withdraw(jobs)
            raise KsimError(f"Slurm did not take the sweep: {str(error).strip()}") from error
        for pack, one in zip(packs, sent, strict=True):
            for job in pack:
                slurm.record(job.run, str(one.job_id))


def register() -> None:
    """Make Hydra know the launchers of `conf/launcher/`."""
    sys.modules[_NAMESPACE] = sys.modules[__name__]
    for launcher in (LocalLauncher, PackedLauncher, SubmititLocalLauncher, SlurmLauncher):
        launcher.__module__ = _NAMESPACE
        Plugins.instance().register(launcher)


def is_ours(target: str) -> bool:
    """Whether a launcher's `_target_` is one of these."""
    return target.startswith(f"{_NAMESPACE}.")


def _callable(pack: Sequence[Planned]) -> Job | PackedJobs:
    return Job(pack[0].run.path) if len(pack) == 1 else PackedJobs(tuple(job.run.path for job in pack))


def _result(job: Planned) -> JobReturn:
    result = JobReturn(overrides=list(job.overrides))
    if completed(job.run):
        result.status = JobStatus.COMPLETED
        result.return_value = objective(job.run)
    else:
        result.status = JobStatus.FAILED
        result.return_value = CompactHydraException(_story(job.run))
    return result


def _report(job: Planned) -> None:
    log.info("%s", _story(job.run))


def _story(run: RunDir) -> str:
    """How a job stands, in one line."""
    found = status(run)
    if found is None:
        return f"{run.path.name}: never began; what it printed is in {run.path.parent / '.submitit'}"
    if found.state == "completed":
        value = objective(run)
        return f"{run.path.name}: completed" + ("" if value is None else f", return {value:.3f}")
    if found.state == "failed":
        return f"{run.path.name}: failed: {found.error}; see {run.log_path}"
    how = "killed" if found.state == "running" else found.state
    return f"{run.path.name}: {how} at {found.step:,} steps; see {run.log_path}"


def _shares(cpus: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The CPUs in equal parts; one of all of them where there are fewer than asked for."""
    return [tuple(cpus[i : i + size]) for i in range(0, len(cpus) - size + 1, size)] or [tuple(cpus)]


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
