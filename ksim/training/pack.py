"""Trainings side by side in one program, each with a run directory as if it were alone."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ksim.envs import table
from ksim.errors import KsimError
from ksim.rl import random_key
from ksim.store import checkpoint
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile
from ksim.system.jit import jit, warning_of_recompiles
from ksim.system.logs import TERMINAL, only_to
from ksim.training.population import Population
from ksim.training.progress import Progress
from ksim.training.records import log_memory, log_to_files, recording, without_logging_errors
from ksim.training.stop import StopRequest

log = logging.getLogger(__name__)


def train_pack(population: Population, run_dirs: Sequence[RunDir], stop: StopRequest | None = None) -> None:
    """Train the members of a population to their ends, each from its newest checkpoint if it has one.

    A member that breaks, or cannot write its files, ends as `failed`, and the others go on.

    Args:
        population: the trainings.
        run_dirs: where everything of each goes; they exist, and `ksim.system.logs.logging_to_each` writes their logs.
        stop: what signals ask for; None: that the trainings save and end.

    Raises:
        KsimError: some of them failed; each one's `status.json` and `train.log` say why.
        Exception: whatever ended all of them, likewise.
    """
    stop = stop or StopRequest()
    with without_logging_errors(), contextlib.ExitStack() as everything:
        members = [_Member(population, i, run_dir) for i, run_dir in enumerate(run_dirs)]
        for member in members:
            everything.enter_context(member.open)
            with member.alone():
                member.begin()
        trained = [member for member in members if member.is_open]
        try:
            _run(population, trained, stop)
            log_memory()
            with stop.at_once(lambda: _leave(trained, stop)):
                for member in trained:
                    with member.alone():
                        member.finish()
        except Exception as error:
            log_to_files("the trainings failed", error)
            raise
    if failed := [member.run_dir.path.name for member in members if member.has_failed]:
        raise KsimError(f"{len(failed)} of {len(members)} trainings failed: {', '.join(failed)}")


class _Member:
    """One of the trainings.

    Attributes:
        open: closes its lock, status, logs and loggers.
        has_failed: it has ended, and the others have not.
        final: its state after its last step, once that is done.
    """

    def __init__(self, population: Population, index: int, run_dir: RunDir):
        self.index = index
        self.run_dir = run_dir
        self.open = contextlib.ExitStack()
        self.has_failed = False
        self.final: Any = None
        self._population = population
        self._has_ended = False

    def begin(self) -> None:
        """Take up the newest checkpoint, or the first state: `first`."""
        experiment = self._population.members[self.index]
        self.open.enter_context(self.run_dir.lock())
        self.status = self.open.enter_context(StatusFile(self.run_dir.status_path))
        log.info("physics: %s", experiment.engine.reason)
        log.info("run directory: %s", self.run_dir.path)
        count = len(self._population) - 1
        log.info("side by side with %d other%s, in one program", count, "" if count == 1 else "s")
        log.info("%s", table.text(experiment.env))
        self.records = self.open.enter_context(recording(experiment, self.run_dir, self.status))
        resume = bool(checkpoint.steps(self.run_dir.checkpoints))
        self.first = self.records.begin(resume, self._population.init(self.index))
        self._progress = Progress(self.records.total_steps, bar=False)
        if self.records.is_over:
            self.final = self.first

    @property
    def is_open(self) -> bool:
        """Whether it has neither failed nor completed."""
        return not (self.has_failed or self._has_ended)

    @property
    def is_running(self) -> bool:
        """Whether it has steps to train for."""
        return self.is_open and not self.records.is_over

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """What is logged within is its own, and so is what goes wrong: it ends this training only."""
        with only_to(self.run_dir.log_path):
            try:
                yield
            except Exception as error:
                log_to_files("the training failed", error)
                self.has_failed = True
                self.open.__exit__(type(error), error, error.__traceback__)

    def take(
        self, metrics: Mapping[str, Any], finite: Mapping[str, Any], judged: Any, state: Any, asked: bool
    ) -> dict[str, Any]:
        """Log, and save where that is due, a chunk: what is its own of the population's."""
        line = self.records.tell(metrics, finite, judged, state, self._progress)
        self.records.save_if_due(state, judged, asked)
        if self.records.is_over:
            self.final = state()
        return line

    def finish(self) -> None:
        """The final evaluation; it has then completed."""
        cfg = self.records.experiment.cfg
        self.records.finish(
            self.final, self._population.player(self.index, cfg.eval.episodes, keep_carry=cfg.eval.video)
        )
        self._has_ended = True
        self.open.close()


def _run(population: Population, members: Sequence[_Member], stop: StopRequest) -> None:
    """Chunks of iterations of all members until each has done its last step, with logs and checkpoints between them.

    One that has is computed on with the others, as that costs no new program; nothing is made of it.

    Raises:
        SystemExit: a signal asked to stop; the checkpoints are written.
    """
    if not any(member.is_running for member in members):
        return
    numbers = population.numbers_of([member.index for member in members])
    states_M = population.stack([member.first for member in members])
    for member in members:
        member.first = None
    judge = _Judges(population, members, numbers)
    with stop, Progress(sum(m.records.total_steps for m in members)) as progress, warning_of_recompiles():
        begin = time.monotonic()
        chunk = jit(population.train_chunk, donate_argnums=1).lower(numbers, states_M).compile()
        log.info("compiled the training of %d side by side in %.0f s", len(members), time.monotonic() - begin)
        for member in members:
            member.records.start_clock()
        while running := [(i, member) for i, member in enumerate(members) if member.is_running]:
            states_M, metrics, finite = chunk(numbers, states_M)
            metrics, finite = jax.device_get((metrics, finite))  # waits for the chunk
            asked = stop.signum is not None
            due = [i for i, member in running if member.records.advance()]
            judged = judge(states_M, due)
            lines = []
            for i, member in running:
                state = functools.cache(partial(population.take, states_M, i))
                with member.alone():
                    own = judged[i]() if i in judged else None
                    lines.append(member.take(_at(metrics, i), _at(finite, i), own, state, asked))
            if lines:
                with only_to(TERMINAL):
                    progress.show(sum(member.records.step for member in members), _together(lines))
            if asked and any(member.is_running for member in members):
                _leave(members, stop)


class _Judges:
    """The evaluations of members during the training, all in one program."""

    def __init__(self, population: Population, members: Sequence[_Member], numbers: Mapping[str, Any]):
        cfg = members[0].records.experiment.cfg
        seeds = [member.records.experiment.cfg.seed for member in members]
        self._members = members
        self._numbers = dict(numbers)
        self._keys_M = jnp.stack([random_key(seed, "judge") for seed in seeds if seed is not None])
        self._play = jit(partial(population.evaluate, num_envs=cfg.eval.interval_episodes), name="evaluate")

    def __call__(self, states_M: Any, due: Sequence[int]) -> dict[int, Any]:
        """For each member that is due, what makes the numbers of its log line."""
        if not due:
            return {}
        begin = time.monotonic()
        played = jax.device_get(self._play(self._numbers, states_M, self._keys_M))
        curriculum = jax.device_get(states_M.env_carry.shared.curriculum)
        return {
            i: partial(self._members[i].records.judge.numbers, _at(played, i), _at(curriculum, i), begin) for i in due
        }


def _leave(members: Sequence[_Member], stop: StopRequest) -> None:
    """Note where each training stands that is saved and not complete, and end as a signal asks."""
    for member in members:
        if member.is_open:
            with only_to(member.run_dir.log_path):
                stop.note(member.status, member.run_dir, member.records.step)
    stop.leave()


def _at(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _together(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The log lines of several as one, for people: the sum of the speeds, and means."""
    shown: dict[str, Any] = {"env_steps_per_s": sum(line["env_steps_per_s"] for line in lines)}
    for name in ("return", "episode_length_s", "falls"):
        values = [line[name] for line in lines if line.get(name) is not None]
        shown[name] = sum(values) / len(values) if values else None
    return shown
