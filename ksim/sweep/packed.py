"""Jobs of a sweep that train side by side in one program."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from ksim.config.schema import Config
from ksim.errors import KsimError
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile, describe
from ksim.sweep.job import completed, objective, stop_request, train, wait_for_owner
from ksim.sweep.plan import Planned
from ksim.system import trust
from ksim.system.logs import logging_to_each, only_to
from ksim.training.checks import load_checked
from ksim.training.packing import numbers_of, packs
from ksim.training.stop import StopRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedJobs:
    """What a launcher sends away in the place of several `Job`s: the paths of their run directories.

    Attributes:
        paths: the run directories, each with its frozen config.
    """

    paths: tuple[Path, ...]

    def __call__(self) -> list[float | None]:
        """Train what is not completed to the end, each from its newest checkpoint if it has one.

        Returns:
            The objectives; see `ksim.sweep.job.objective`.

        Raises:
            KsimError: some of the trainings failed; each one's `status.json` and `train.log` say why.
            Exception: whatever ended all of them, likewise.
        """
        runs = [RunDir(path) for path in self.paths]
        with logging_to_each([run.log_path for run in runs]):
            for run in runs:
                with only_to(run.log_path):
                    wait_for_owner(run)
            _train([run for run in runs if not completed(run)], stop_request())
        return [objective(run) for run in runs]

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts when it requeues the job: the same again, as its state is in the run directories."""
        return DelayedSubmission(self)


def in_packs(jobs: Sequence[Planned], at_most: int | None) -> list[list[Planned]]:
    """Jobs in packs of those that fit into one program; it is told which do not, and why."""
    configs = [_config(job.run) if not job.is_new else job.config for job in jobs]
    made = packs(configs, at_most)
    for pack in made:
        if pack.why_apart:
            names = ", ".join(jobs[i].run.path.name for i in pack.members)
            log.info("not in one program with the jobs before, because of %s: %s", ", ".join(pack.why_apart), names)
    return [[jobs[i] for i in pack.members] for pack in made]


def _train(runs: Sequence[RunDir], stop: StopRequest) -> None:
    if len(runs) > 1:
        _train_together(runs, stop)
    for run in runs if len(runs) == 1 else ():
        with only_to(run.log_path):
            train(run, stop)


def _train_together(runs: Sequence[RunDir], stop: StopRequest) -> None:
    from ksim.training.pack import train_pack  # late: launchers run where no JAX backend may be started
    from ksim.training.population import NotTraceable, Population  # late: likewise

    try:
        configs = [_config(run) for run in runs]
        population = Population(configs)
    except NotTraceable as error:
        log.warning("%s; the jobs train in a program for each of its values, one after the other", error)
        parts: dict[object, list[RunDir]] = {}
        for run, config in zip(runs, configs, strict=True):
            parts.setdefault(numbers_of(config)[error.path], []).append(run)
        _one_after_the_other(list(parts.values()), stop)
        return
    except Exception as error:
        log.exception("the jobs cannot begin")
        for run in runs:
            StatusFile(run.status_path).end("failed", error=describe(error))
        raise
    train_pack(population, runs, stop)


def _one_after_the_other(parts: Sequence[Sequence[RunDir]], stop: StopRequest) -> None:
    """Train each part; one that fails leaves the others be."""
    failed = []
    for part in parts:
        try:
            _train(part, stop)
        except Exception as error:  # train.log has the traceback
            failed.append(describe(error))
    if failed:
        raise KsimError("; ".join(failed))


def _config(run: RunDir) -> Config:
    """The frozen config; where one run has begun, its engine is resolved, and no longer `auto`."""
    with trust.everything():  # the launcher has looked, and its user's folder may not be on this machine
        return load_checked(run.config_path)
