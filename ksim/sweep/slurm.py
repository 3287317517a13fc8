"""What Slurm knows about a sweep's jobs, asked with `squeue`: it needs no accounting database."""

import logging
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from ksim.store import files
from ksim.store.run_dir import RunDir
from ksim.system import foreign

log = logging.getLogger(__name__)

_SHORTEST_S, _LONGEST_S = 2.0, 10.0  # between two looks at the queue
_RECORD = "slurm.json"


class Queue:
    """A user's jobs in Slurm's queue, as far as they belong to one sweep.

    Args:
        user: whose.
        sweep_dir: the sweep's folder; submission scripts lie in it, so a reused number is no job of the sweep.
    """

    def __init__(self, user: str, sweep_dir: Path) -> None:
        self.user = user
        self.sweep_dir = sweep_dir

    def jobs(self) -> set[str] | None:
        """Numbers of the jobs that run or wait, such as "12_3"; None where Slurm does not answer."""
        command = ["squeue", "--noheader", "--array", f"--user={self.user}", "--format=%i|%o"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            log.debug("squeue: %s", error)
            return None
        lines = [line.partition("|") for line in found.splitlines()]
        return {number for number, _, script in lines if script.startswith(f"{self.sweep_dir}/")}

    def ended(self, numbers: Collection[str]) -> Iterator[str]:
        """Each of the jobs once it has left the queue; a job that Slurm requeues stays in it."""
        left = dict.fromkeys(numbers, 0)
        wait = _SHORTEST_S
        while left:
            time.sleep(wait)
            wait = min(wait * 1.1, _LONGEST_S)
            queued = self.jobs()
            if queued is None:
                continue
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
