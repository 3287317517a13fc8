"""What Slurm knows about a sweep's jobs, asked with `squeue`: it needs no accounting database."""

import logging
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ksim.store import files
from ksim.store.run_dir import RunDir
from ksim.system import foreign

log = logging.getLogger(__name__)

_SHORTEST_S, _LONGEST_S = 2.0, 10.0  # between two looks at the queue
_RECORD = "slurm.json"


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue: its state in Slurm's words, such as PENDING, and why it waits, such as Priority."""

    state: str
    reason: str

    @property
    def is_waiting(self) -> bool:
        """Whether it does not run, and has not since it was sent or given back."""
        return self.state == "PENDING"


class Queue:
    """A user's jobs in Slurm's queue, as far as they belong to one sweep.

    Args:
        user: whose.
        sweep_dir: the sweep's folder; submission scripts lie in it, so a reused number is no job of the sweep.
    """

    def __init__(self, user: str, sweep_dir: Path) -> None:
        self.user = user
        self.sweep_dir = sweep_dir

    def jobs(self) -> dict[str, QueuedJob] | None:
        """The jobs that run or wait by their numbers, such as "12_3"; None where Slurm does not answer."""
        command = ["squeue", "--noheader", "--array", f"--user={self.user}", "--format=%i|%T|%r|%o"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            log.debug("squeue: %s", error)
            return None
        lines = [line.split("|", 3) for line in found.splitlines() if line.count("|") >= 3]
        return {
            number: QueuedJob(state, reason)
            for number, state, reason, script in lines
            if script.startswith(f"{self.sweep_dir}/")
        }

    def take_back(self, numbers: Collection[str]) -> None:
        """Cancel those of the jobs that wait."""
        subprocess.run(["scancel", "--quiet", "--state=PENDING", *numbers], timeout=60, check=False)

    def ended(self, numbers: Collection[str], look: Callable[[Mapping[str, QueuedJob]], None]) -> Iterator[str]:
        """Each of the jobs once it has left the queue; a job that Slurm requeues stays in it.

        Args:
            numbers: of the jobs.
            look: is called with the queue, again and again; what it raises ends the waiting.
        """
        left = dict.fromkeys(numbers, 0)
        wait = _SHORTEST_S
        while left:
            time.sleep(wait)
            wait = min(wait * 1.1, _LONGEST_S)
            queued = self.jobs()
            if queued is None:
                continue
            look(queued)
            for number in list(left):
                if number in queued:
                    left[number] = 0
                    continue
                wait = _SHORTEST_S
                left[number] += 1
                if left[number] == 2:  # a job that is just being requeued may be missing once
                    del left[number]
                    yield number


def record(run: RunDir, number: str) -> None:
    """Remember which job works on a run."""
    files.write_atomic(run.path / _RECORD, files.json_bytes({"job": number}))


def recorded(run: RunDir) -> str | None:
    """The job that works, or worked, on a run."""
    try:
        return str(foreign.parse_json((run.path / _RECORD).read_bytes())["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
