"""One training, from a config to everything that its run directory holds."""

import functools
import logging
import time
from typing import Any

import jax

from ksim.config.schema import Config
from ksim.envs import table
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile
from ksim.system import processes
from ksim.system.jit import warning_of_recompiles
from ksim.training import follower
from ksim.training.experiment import build
from ksim.training.placement import Placement
from ksim.training.progress import Progress
from ksim.training.records import Records, log_memory, log_to_files, recording, without_logging_errors
from ksim.training.stop import StopRequest

log = logging.getLogger(__name__)


def train(cfg: Config, run_dir: RunDir, *, resume: bool = False, stop: StopRequest | None = None) -> float | None:
    """Train in a run directory that exists.

    Args:
        cfg: the checked config.
        run_dir: where everything goes; empty but for Hydra's files, unless it is resumed.
        resume: go on from the newest checkpoint there.
        stop: what signals ask for; None: that the training saves and ends.

    Returns:
        The mean return of the deterministic policy at the end, the objective of a sweep; None without an eval.

    Raises:
        Exception: whatever ended the training; `status.json` then says failed and why, `train.log` has the traceback.
    """
    with without_logging_errors(), run_dir.lock(), StatusFile(run_dir.status_path) as status:
        try:
            return _train(cfg, run_dir, status, resume, stop or StopRequest())
        except Exception as error:
            log_to_files("the training failed", error)  # the terminal hears of it from who called
            raise


def _train(cfg: Config, run_dir: RunDir, status: StatusFile, resume: bool, stop: StopRequest) -> float | None:
    processes.say(follower.START, engine=cfg.physics.engine)
    experiment = build(cfg)
    placement = Placement(experiment)
    log.info("physics: %s", experiment.engine.reason)
    if len(placement.devices) > 1:
        log.info("one training over %s", placement)
    log.info("run directory: %s", run_dir.path)
    log.info("%s", table.text(experiment.env))
    with recording(experiment, run_dir, status, placement.devices) as records:
        state = _run(records, placement, _begin(records, placement, resume), stop)
        log_memory()
        with stop.at_once(lambda: stop.saved(status, run_dir, status.status.step)):
            return records.finish(state)


def _begin(records: Records, placement: Placement, resume: bool) -> Any:
    """The state that the training begins with, or goes on with, in its place."""
    processes.say(follower.OPEN, run=str(records.run_dir.path))

    def init(key: jax.Array) -> Any:
        processes.say(follower.INIT)
        return placement.init(key)

    state = records.begin(resume, init)
    if records.step:
        processes.say(follower.LOAD, step=records.step)
    return placement.put(state)


def _run(records: Records, placement: Placement, state: Any, stop: StopRequest) -> Any:
    """Chunks of iterations until the last step, with logs and checkpoints between them; the last state, whole.

    Raises:
        SystemExit: a signal asked to stop; the checkpoint is written.
        TrainingBroke: numbers of the algorithm are not finite.
    """
    algorithm = records.experiment.algorithm

    def gather(state: Any) -> Any:
        processes.say(follower.GATHER)
        return placement.gather(state)

    if records.is_over:
        return gather(state)
    with stop, Progress(records.total_steps) as progress, warning_of_recompiles():
        begin = time.monotonic()
        processes.say(follower.COMPILE)
        chunk = placement.compile_chunk(state)  # apart from the first chunk's own time
        log.info("compiled the training in %.0f s", time.monotonic() - begin)
        records.start_clock()
        while not records.is_over:
            processes.say(follower.TRAIN)
            state, metrics, finite = chunk(state)
            metrics, finite = jax.device_get((metrics, finite))  # waits for the chunk
            stop.also(processes.heard())
            present = functools.cache(functools.partial(gather, state))
            judged = None
            if records.advance():
                judged = records.judged(algorithm.policy(present()), present().env_carry.shared.curriculum)
            records.tell(metrics, finite, judged, present, progress)
            records.save_if_due(present, judged, stop.signum is not None)
            if stop.signum and not records.is_over:
                stop.saved(records.status, records.run_dir, records.step)
        return present()
