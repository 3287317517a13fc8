"""One training, from a config to everything that its run directory holds."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ksim.config.compose import freeze
from ksim.config.schema import Config
from ksim.envs import table
from ksim.envs.log import summarize
from ksim.evaluation.best import Judge
from ksim.evaluation.evaluate import evaluate_into, sentence
from ksim.loggers import build as loggers
from ksim.loggers.logger import Logger, RunInfo
from ksim.rl.algorithm import ENV
from ksim.store import checkpoint, files, provenance
from ksim.store import metrics as metrics_file
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile
from ksim.system import jax_setup, trust
from ksim.system.jit import warning_of_recompiles
from ksim.training.experiment import Experiment, build
from ksim.training.progress import Progress
from ksim.training.state import first_state, jit_chunk, restore, save
from ksim.training.stop import StopRequest
from ksim.training.watch import Watch, check_finite
from ksim.viz.plots import plot_training

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
    with _without_logging_errors(), run_dir.lock(), StatusFile(run_dir.status_path) as status:
        try:
            return _train(cfg, run_dir, status, resume, stop or StopRequest())
        except Exception as error:
            _log_to_files("the training failed", error)  # the terminal hears of it from who called
            raise


def _train(cfg: Config, run_dir: RunDir, status: StatusFile, resume: bool, stop: StopRequest) -> float | None:
    experiment = build(cfg)
    cfg = experiment.cfg
    assert cfg.seed is not None  # the config is checked
    log.info("physics: %s", experiment.engine.reason)
    log.info("run directory: %s", run_dir.path)
    log.info("%s", table.text(experiment.env))
    files.write_atomic(run_dir.config_path, freeze(cfg).encode())
    trust.sign(run_dir.config_path)
    run_dir.update_latest()
    provenance.write(
        run_dir.provenance_path,
        {
            "devices": [str(device) for device in jax.devices()],
            "device_memory": jax_setup.device_memory(),
            "engine": dataclasses.asdict(experiment.engine),
            "threads": getattr(experiment.env.physics, "threads", None),
            "seed": cfg.seed,
        },
    )
    about = RunInfo(run_dir.path, f"{cfg.name}/{run_dir.path.name}", dataclasses.asdict(cfg))
    with loggers.build(cfg.logger, about) as logger:
        with metrics_file.MetricsWriter(run_dir.metrics_path) as writer:
            training = _Training(experiment, run_dir, status, writer, logger)
            training.begin(resume)
            training.run(stop)
        for device, taken in jax_setup.device_memory().items():
            log.info("memory of %s: %s", device, ", ".join(f"{k} {v / 2**20:,.0f} MiB" for k, v in taken.items()))
        with stop.at_once(status, run_dir):
            return _finish(experiment, run_dir, logger, training.state, training.step)


def _finish(experiment: Experiment, run_dir: RunDir, logger: Logger, state: Any, step: int) -> float | None:
    """Plots of the training, and the final evaluation; its mean return."""
    cfg = experiment.cfg
    assert cfg.seed is not None  # the config is checked
    plot_training(metrics_file.read(run_dir.metrics_path), run_dir.plots)
    if not cfg.eval.episodes:
        return None
    log.info("playing %d episodes of the deterministic policy ...", cfg.eval.episodes)
    result = evaluate_into(
        run_dir.eval / "final",
        experiment.env,
        experiment.engine,
        experiment.algorithm.policy(state),
        state.env_carry.shared.curriculum,
        episodes=cfg.eval.episodes,
        seed=cfg.seed,
        video_length_s=cfg.eval.video_length_s if cfg.eval.video else None,
        overlay=cfg.eval.video_overlay,
        about={"step": step, "overrides": []},
        replace=True,
    )
    logger.log({f"final/{name}": value for name, value in result.summary.items()}, step)
    if result.video is not None:
        logger.log_video("video", result.video, step)
    log.info("deterministic policy: %s", sentence(result.summary))
    log.info("numbers, plots%s: %s", " and a video" if result.video else "", result.folder)
    return result.summary["return"]


class _Training:
    """Chunks of iterations until the last step, with logs and checkpoints between them.

    Attributes:
        state: the algorithm's.
        step: env steps so far.
    """

    def __init__(
        self,
        experiment: Experiment,
        run_dir: RunDir,
        status: StatusFile,
        writer: metrics_file.MetricsWriter,
        logger: Logger,
    ):
        cfg, algorithm = experiment.cfg, experiment.algorithm
        assert cfg.seed is not None  # the config is checked
        self.experiment = experiment
        self.run_dir = run_dir
        self.status = status
        self.writer = writer
        self.logger = logger
        self.judge = Judge(experiment.env, algorithm.num_envs, cfg.eval, cfg.seed, run_dir)
        self.steps_per_chunk = algorithm.steps_per_iteration * cfg.log.interval_iterations
        self.total_steps = -(-algorithm.total_steps // self.steps_per_chunk) * self.steps_per_chunk
        self.state: Any = None
        self.step = 0

    def begin(self, resume: bool) -> None:
        """Take up the newest checkpoint, or begin with the first state."""
        if resume:
            self.state, self.step = restore(self.experiment, self.run_dir)
        if self.state is None:
            self.state = first_state(self.experiment)
        self.status.update(self.step)
        self.writer.truncate_after(self.step)
        if resume:
            self.judge.recall(metrics_file.read(self.run_dir.metrics_path))
        # Diverged envs of the time before are on disk already.
        self.watch = Watch(self.experiment.env, self.run_dir, int(self.state.env_carry.shared.diverged.count))

    def run(self, stop: StopRequest) -> None:
        """Train to the last step.

        Raises:
            SystemExit: a signal asked to stop; the checkpoint is written.
            TrainingBroke: numbers of the algorithm are not finite.
        """
        if self.step >= self.total_steps:
            return
        started = time.monotonic() - _wall_time(self.run_dir)
        with stop, Progress(self.total_steps) as progress, warning_of_recompiles():
            chunk = _compiled(self.experiment, self.state)
            saved = before = time.monotonic()
            while self.step < self.total_steps:
                self.state, metrics, finite = chunk(self.state)
                metrics, finite = jax.device_get((metrics, finite))  # waits for the chunk
                self.step += self.steps_per_chunk
                judged = self._judge()
                now = time.monotonic()
                speed = {"env_steps_per_s": self.steps_per_chunk / (now - before), "wall_time_s": now - started}
                before = now
                line = readable(metrics, self.experiment.env.step_dt) | speed | (judged or {})
                self._tell(line, progress)
                check_finite(metrics, finite, self.step)
                is_best = judged is not None and self.judge.is_best(judged)
                is_due = now - saved > self.experiment.cfg.checkpoint.every_s
                if is_best or is_due or self.step >= self.total_steps or stop.signum:
                    self._save(judged if is_best else None)
                    saved = time.monotonic()
                if stop.signum and self.step < self.total_steps:
                    stop.saved(self.status, self.run_dir, self.step)

    def _judge(self) -> dict[str, float] | None:
        """The numbers of an evaluation, where one is due."""
        if not self.judge.is_due(self.step - self.steps_per_chunk, self.step):
            return None
        return self.judge.judge(self.experiment.algorithm.policy(self.state), self.state.env_carry.shared.curriculum)

    def _tell(self, line: Mapping[str, Any], progress: Progress) -> None:
        """Write and show a log line."""
        self.writer.write(self.step, line)
        self.logger.log(line, self.step)
        progress.show(self.step, line)
        self.status.update(self.step)
        self.watch.look(line, self.state, self.steps_per_chunk)

    def _save(self, best: Mapping[str, float] | None) -> None:
        """Write a checkpoint; with the numbers of its evaluation where it is the best so far."""
        self.writer.sync()
        save(self.experiment, self.state, self.run_dir, self.step)
        if best is not None:
            self.judge.keep(self.step, best)
        protected = [self.judge.best.step] if self.judge.best else []
        checkpoint.prune(self.run_dir.checkpoints, self.experiment.cfg.checkpoint.keep, protected)


def _compiled(experiment: Experiment, state: Any) -> Any:
    """The train program, compiled apart from the first chunk, whose speed is then true."""
    begin = time.monotonic()
    program: Any = jit_chunk(experiment)
    program = program.lower(state).compile()
    log.info("compiled the training in %.0f s", time.monotonic() - begin)
    return program


def _wall_time(run_dir: RunDir) -> float:
    """Seconds that the run has trained for, by its last log line."""
    lines = metrics_file.read(run_dir.metrics_path)
    return float(lines[-1]["wall_time_s"]) if lines else 0.0


def readable(metrics: Mapping[str, Any], step_dt: float) -> dict[str, float | None]:
    """A chunk's numbers as those of a log line: the env's sums as averages over episodes, the others as they are."""
    env = summarize({name.removeprefix(ENV): x for name, x in metrics.items() if name.startswith(ENV)}, step_dt)
    return env | {name: float(x) for name, x in metrics.items() if not name.startswith(ENV)}


@contextlib.contextmanager
def _without_logging_errors() -> Iterator[None]:
    """Lines that `train.log` has no room for are dropped: on a full disk, errors of logging would hide the reason."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


def _log_to_files(message: str, error: Exception) -> None:
    """Log an error with its traceback, but not to the terminal."""
    trace = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
