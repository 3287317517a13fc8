"""What a launcher shows while it waits for a cluster: how its jobs stand, and why those wait that do."""

import contextlib
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console

from ksim.errors import KsimError
from ksim.sweep.job import status
from ksim.sweep.plan import Planned
from ksim.sweep.slurm import QueuedJob
from ksim.training.progress import logs_above_the_bar

log = logging.getLogger(__name__)

_LINE_EVERY_S = 600.0  # without a terminal; a change of how many wait and run is told at once
_PATIENCE_S = 30.0  # Slurm gives some reasons also while a node is down for a moment

# Reasons that no waiting cures, as squeue's %r names them (Slurm's "Job Reason Codes"), and the keys of hydra.launcher
# that ask for what there is not. Limits on what all of a user's, an account's or a QOS's jobs take together (Grp,
# MaxJobs, PerUser, PerAccount) are none: they pass when other jobs end.
_HOPELESS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"PartitionTimeLimit|AssociationTimeLimit|QOSTimeLimit", ("timeout_min", "partition")),
    (r"(Assoc|QOS)Max(Wall\w*|\w*Minutes)PerJob\w*", ("timeout_min", "qos")),
    (r"(Assoc|QOS)?MaxCpu\w*Per(Job|Node)\w*", ("cpus_per_task", "qos")),
    (r"(Assoc|QOS)?Max(Mem|Memory)\w*Per(Job|Node|Limit)\w*|MaxMemPerLimit", ("mem_gb", "qos")),
    (r"(Assoc|QOS)?Max(GRES|Gres)\w*Per(Job|Node)\w*", ("gpus_per_node", "qos")),
    (r"(Assoc|QOS)Max\w+Per(Job|Node)\w*|QOSMin\w+", ("cpus_per_task", "gpus_per_node", "mem_gb", "qos")),
    (r"PartitionConfig|PartitionNodeLimit", ("cpus_per_task", "gpus_per_node", "mem_gb", "partition")),
    (r"BadConstraints", ("constraint", "cpus_per_task", "gpus_per_node", "mem_gb")),
    (r"InvalidAccount|AccountNotAllowed", ("account", "partition")),
    (r"InvalidQOS|QOSNotAllowed", ("qos", "partition")),
    (r"ReservationDeleted|DependencyNeverSatisfied", ("additional_parameters",)),
)


def is_hopeless(job: QueuedJob) -> bool:
    """Whether a job waits for what no waiting brings."""
    return bool(job.is_waiting and _settings(job.reason))


class Waiting:
    """A context manager around the waiting.

    Args:
        jobs: by their numbers in the queue.
        settings: those of `hydra.launcher`.
    """

    def __init__(self, jobs: Mapping[str, Planned], settings: Mapping[str, Any]) -> None:
        self.jobs = jobs
        self.settings = settings
        self._hopeless_since: dict[str, float] = {}
        self._told: set[str] = set()
        self._counts: tuple[int, ...] = ()
        self._last_line = float("-inf")
        self._spinner = Console(stderr=True).status("") if sys.stderr.isatty() else None
        self._stack = contextlib.ExitStack()

    def show(self, queued: Mapping[str, QueuedJob]) -> None:
        """A look at the queue.

        Raises:
            KsimError: all jobs that are left could wait for ever, with the settings to change.
        """
        left = {number: queued[number] for number in self.jobs if number in queued}
        text = self._describe(left)
        if self._spinner is not None:
            self._spinner.update(text)
        counts = (sum(job.is_waiting for job in left.values()), len(left))
        now = time.monotonic()
        if counts != self._counts or now - self._last_line > _LINE_EVERY_S:
            self._counts, self._last_line = counts, now
            log.info("%s", text, extra={"in_terminal": self._spinner is None})
        self._check(left, now)

    def __enter__(self) -> Self:
        if self._spinner is not None:
            self._stack.enter_context(self._spinner)
            self._stack.enter_context(logs_above_the_bar())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _describe(self, left: Mapping[str, QueuedJob]) -> str:
        waiting = Counter(job.reason for job in left.values() if job.is_waiting)
        running = [self.jobs[number] for number, job in left.items() if not job.is_waiting]
        parts = []
        if waiting:
            reasons = ", ".join(reason for reason, _ in waiting.most_common())
            parts.append(f"{waiting.total()} wait ({reasons})")
        if running:
            steps = sorted(found.step if (found := status(job.run)) else 0 for job in running)
            at = f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}"
            parts.append(f"{len(running)} run, at {at} steps")
        return "; ".join([*parts, f"{len(self.jobs) - len(left)} ended"])

    def _check(self, left: Mapping[str, QueuedJob], now: float) -> None:
        hopeless = {number: job.reason for number, job in left.items() if is_hopeless(job)}
        self._hopeless_since = {number: self._hopeless_since.get(number, now) for number in hopeless}
        lasting = {n: reason for n, reason in hopeless.items() if now - self._hopeless_since[n] >= _PATIENCE_S}
        if not lasting:
            return
        reason = Counter(lasting.values()).most_common(1)[0][0]
        numbers = sorted(n for n in lasting if lasting[n] == reason)
        if len(lasting) == len(left):
            raise KsimError(self._advice(reason, len(numbers)))
        if reason not in self._told:  # the others run, or may run yet
            self._told.add(reason)
            log.warning("%s", self._advice(reason, len(numbers)))

    def _advice(self, reason: str, count: int) -> str:
        asked = {key: self.settings.get(key) for key in _settings(reason)}
        listed = ", ".join(
            f"hydra.launcher.{key}" + ("" if value is None else f" (now {value})") for key, value in asked.items()
        )
        return (
            f"Slurm will not start {count} of the jobs, however long they wait: {reason}. Change {listed}: the same"
            " command with other settings takes them back and sends them anew; `sinfo --format='%P %c %m %G %l'` lists"
            " what each partition's nodes have: CPUs, memory, GPUs, time limit"
        )


def _settings(reason: str) -> tuple[str, ...]:
    """The keys of `hydra.launcher` that a hopeless reason is about; none where waiting helps."""
    return next((keys for pattern, keys in _HOPELESS if re.fullmatch(pattern, reason)), ())
