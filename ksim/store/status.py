"""`status.json`: how a run stands, for its user, for `report` and for the next process that resumes it."""

import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from ksim.errors import KsimError
from ksim.store import files
from ksim.system import foreign

log = logging.getLogger(__name__)

State = Literal["running", "completed", "failed", "interrupted", "preempted"]


@dataclass(frozen=True)
class Status:
    """One reading of `status.json`. Times are local, ISO 8601, with their offset."""

    state: State
    step: int  # env steps
    started_at: str  # of the first process of the run; a resume keeps it
    resumed_at: str | None
    updated_at: str
    ended_at: str | None
    host: str
    pid: int
    pid_started: int | None  # kernel clock ticks: tells the process from a later one of the same pid
    error: str | None
    gate: dict[str, float] | None = None  # where the training passed its gate: `step`, and `time_s` of training

    @property
    def dead(self) -> bool:
        """Whether it says `running` although its process, on this host, is gone. Unknown on another host: False."""
        return (
            self.state == "running"
            and self.host == files.host()
            and not files.process_alive(self.pid, self.pid_started)
        )


def read(path: Path) -> Status | None:
    """The status in the file `path`; None where there is none. Raises KsimError where the file is damaged."""
    try:
        found = foreign.parse_json(path.read_bytes())
        status = Status(
            **{name: found[name] for name in Status.__dataclass_fields__ if name != "gate"}, gate=found.get("gate")
        )
        if status.state not in get_args(State):
            raise ValueError(f"unknown state {status.state!r}")
        return status
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KsimError(f"{path} cannot be read: {error!r}") from None


def describe(error: BaseException) -> str:
    """An error in one line: a user's mistake by its message, any other with its type."""
    return str(error) if isinstance(error, KsimError) else f"{type(error).__name__}: {error}"


class StatusFile:
    """Writes `status.json` while a run goes on; a context manager around the run.

    Entering writes `running`. Leaving writes `completed`, or `failed` with the error, or `interrupted` (`preempted`
    where that was told before) after a KeyboardInterrupt or a SystemExit that is not 0, unless `end` was called
    before. A status that cannot be written (full disk) is logged and ends nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            before = read(path)
        except KsimError as error:
            log.warning("%s; it is written anew", error)
            before = None
        time = files.now()
        self.status = Status(
            state="running",
            step=before.step if before else 0,  # until the checkpoint is read that a resume goes on from
            started_at=before.started_at if before else time,
            resumed_at=time if before else None,
            updated_at=time,
            ended_at=None,
            host=files.host(),
            pid=os.getpid(),
            pid_started=files.process_start(os.getpid()),
            error=None,
            gate=before.gate if before else None,
        )

    def update(self, step: int) -> None:
        """Still running (or still about to be preempted), at `step` env steps."""
        self._write(replace(self.status, step=step, updated_at=files.now()))

    def preempted(self, step: int) -> None:
        """The cluster is about to take the machine away; the state stays, as nobody can write it once that is done."""
        self._write(replace(self.status, state="preempted", step=step, updated_at=files.now()))

    def passed(self, step: int, time_s: float) -> None:
        """The training has passed its gate, after so many env steps and seconds of training."""
        self._write(replace(self.status, gate={"step": step, "time_s": time_s}))

    def end(self, state: State, step: int | None = None, error: str | None = None) -> None:
        """The run is over; what a later `end` or the end of the context says is ignored."""
        if self.status.ended_at is None:
            time = files.now()
            step = self.status.step if step is None else step
            self._write(replace(self.status, state=state, step=step, updated_at=time, ended_at=time, error=error))

    def __enter__(self) -> Self:
        self._write(self.status)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.end("completed")
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self.end("preempted" if self.status.state == "preempted" else "interrupted")
        else:
            self.end("failed", error=describe(error))

    def _write(self, status: Status) -> None:
        self.status = status
        try:
            files.write_atomic(self.path, files.json_bytes(asdict(status)))
        except OSError as error:
            log.warning("%s cannot be written: %s", self.path, error)
