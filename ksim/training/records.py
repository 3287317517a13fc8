"""What a training leaves in its run directory while it goes on, whatever advances it."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from ksim.config.compose import freeze
from ksim.envs.log import summarize
from ksim.evaluation import gate
from ksim.evaluation.best import Judge
from ksim.evaluation.episodes import Episodes
from ksim.evaluation.evaluate import evaluate_into, sentence
from ksim.loggers import build as loggers
from ksim.loggers.logger import Logger, RunInfo
from ksim.rl.algorithm import ENV
from ksim.rl.policy import Policy
from ksim.store import checkpoint, files, provenance
from ksim.store import metrics as metrics_file
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile
from ksim.system import jax_setup, trust
from ksim.training.experiment import Experiment
from ksim.training.progress import Progress
from ksim.training.state import first_state, restore, save
from ksim.training.time_to_gate import TimeToGate
from ksim.training.watch import Watch, check_finite
from ksim.viz.plots import plot_training

log = logging.getLogger(__name__)


class Records:
    """Log lines, status, judgements and checkpoints of one training.

    Attributes:
        experiment: what is trained.
        run_dir: where everything goes.
        status: its `status.json`.
        step: env steps so far.
        total_steps: env steps at the end, whole chunks.
        judge: decides which checkpoint is the best.
        gate: ends the training at the task's gate; None where it goes on.
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
        self.step = 0
        self.gate = TimeToGate(cfg, cfg.seed) if cfg.eval.stop_at_gate else None
        evaluations = 1 + (self.gate.num_conditions if self.gate is not None else 0)
        self.judge = Judge(experiment.env, algorithm.num_envs, cfg.eval, cfg.seed, run_dir, evaluations)
        self.steps_per_chunk = algorithm.steps_per_iteration * cfg.log.interval_iterations
        self.total_steps = -(-algorithm.total_steps // self.steps_per_chunk) * self.steps_per_chunk
        self._writer = writer
        self._logger = logger

    def begin(self, resume: bool, init: Callable[[jax.Array], Any] | None = None) -> Any:
        """The state of the newest checkpoint, or the first one; `init` as for `first_state`."""
        state = None
        if resume:
            state, self.step = restore(self.experiment, self.run_dir)
        if state is None:
            state = first_state(self.experiment, init)
        self.status.update(self.step)
        self._writer.truncate_after(self.step)
        if resume:
            lines = metrics_file.read(self.run_dir.metrics_path)
            self.judge.recall(lines)
            if self.gate is not None:
                self.gate.recall(lines)
        # Diverged envs of the time before are on disk already.
        self._watch = Watch(self.experiment.env, self.run_dir, int(state.env_carry.shared.diverged.count))
        self._started = time.monotonic() - _wall_time(self.run_dir)
        return state

    def start_clock(self) -> None:
        """From here on, time counts for speed and checkpoints."""
        self._saved = self._before = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train: the last step is done, or the gate is passed."""
        return self.step >= self.total_steps or (self.gate is not None and self.gate.is_passed)

    def advance(self) -> bool:
        """A chunk was trained; whether the policy is to be judged now."""
        self.step += self.steps_per_chunk
        return self.judge.is_due(self.step - self.steps_per_chunk, self.step)

    def judged(self, policy: Policy, curriculum: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of the evaluations that are due; the arguments are those of `Judge.judge`."""
        numbers = self.judge.judge(policy, curriculum)
        if self.gate is not None:
            of_gate = self.gate.judge(policy, curriculum, self.step)
            numbers |= of_gate | {"eval_time_s": numbers["eval_time_s"] + of_gate["eval_time_s"]}
        return numbers

    def tell(
        self,
        metrics: Mapping[str, Any],
        finite: Mapping[str, Any],
        judged: dict[str, float] | None,
        state: Callable[[], Any],
        progress: Progress,
    ) -> dict[str, Any]:
        """Write and show the log line of a chunk.

        Args:
            metrics, finite: what `ksim.rl.train_chunk` returned, on the host.
            judged: the numbers of an evaluation, where one was due.
            state: gives the state behind it.
            progress: what is shown.

        Returns:
            The line.

        Raises:
            TrainingBroke: numbers of the algorithm are not finite.
        """
        now = time.monotonic()
        speed = {"env_steps_per_s": self.steps_per_chunk / (now - self._before), "wall_time_s": now - self._started}
        self._before = now
        line = readable(metrics, self.experiment.env.step_dt) | speed | (judged or {})
        if self.gate is not None:
            line |= self.gate.look(line, self.step, self.status)
        self._writer.write(self.step, line)
        self._logger.log(line, self.step)
        progress.show(self.step, line)
        self.status.update(self.step)
        self._watch.look(line, state, self.steps_per_chunk)
        check_finite(metrics, finite, self.step)
        return line

    def save_if_due(self, state: Callable[[], Any], judged: Mapping[str, float] | None, asked: bool) -> None:
        """Write a checkpoint where it is the best so far, the last, due, or asked for."""
        is_best = judged is not None and self.judge.is_best(judged)
        is_due = self._before - self._saved > self.experiment.cfg.checkpoint.every_s
        if not (is_best or is_due or self.is_over or asked):
            return
        self._writer.sync()
        save(self.experiment, state(), self.run_dir, self.step)
        if is_best and judged is not None:
            self.judge.keep(self.step, judged)
        protected = [self.judge.best.step] if self.judge.best else []
        checkpoint.prune(self.run_dir.checkpoints, self.experiment.cfg.checkpoint.keep, protected)
        self._saved = time.monotonic()

    def finish(self, state: Any, play: Callable[..., Episodes] | None = None) -> float | None:
        """Plots of the training, and the final evaluation.

        Args:
            state: the last one.
            play: as for `evaluate_into`.

        Returns:
            Its mean return; None without an evaluation.
        """
        cfg = self.experiment.cfg
        assert cfg.seed is not None  # the config is checked
        plot_training(metrics_file.read(self.run_dir.metrics_path), self.run_dir.plots)
        if not cfg.eval.episodes:
            return None
        policy, curriculum = self.experiment.algorithm.policy(state), state.env_carry.shared.curriculum
        verdicts: list[gate.Verdict] = []
        if cfg.eval.gate:
            verdicts = gate.play(cfg, policy, curriculum, cfg.seed, lambda text: log.info("%s ...", text))
        log.info("playing %d episodes of the deterministic policy ...", cfg.eval.episodes)
        result = evaluate_into(
            self.run_dir.eval / "final",
            self.experiment.env,
            self.experiment.engine,
            policy,
            curriculum,
            episodes=cfg.eval.episodes,
            seed=cfg.seed,
            video_length_s=cfg.eval.video_length_s if cfg.eval.video else None,
            overlay=cfg.eval.video_overlay,
            about={"step": self.step, "overrides": []},
            besides={gate.GATE: gate.record(verdicts)} if verdicts else {},
            replace=True,
            play=play,
        )
        self._logger.log({f"final/{name}": value for name, value in result.summary.items()}, self.step)
        if result.video is not None:
            self._logger.log_video("video", result.video, self.step)
        log.info("deterministic policy: %s", sentence(result.summary))
        if verdicts:
            log.info("the gate: %s: %s", "passed" if gate.passed(verdicts) else "NOT passed", gate.sentence(verdicts))
        log.info("numbers, plots%s: %s", " and a video" if result.video else "", result.folder)
        return result.summary["return"]


@contextlib.contextmanager
def recording(
    experiment: Experiment, run_dir: RunDir, status: StatusFile, devices: Sequence[jax.Device] | None = None
) -> Iterator[Records]:
    """The records of a training that is about to begin or to go on: config, provenance and loggers are there.

    Args:
        experiment, run_dir, status: as for `Records`.
        devices: those that train; None: the first one.
    """
    cfg = experiment.cfg
    files.write_atomic(run_dir.config_path, freeze(cfg).encode())
    trust.sign(run_dir.config_path)
    run_dir.update_latest()
    provenance.write(
        run_dir.provenance_path,
        {
            "devices": [str(device) for device in devices or jax.local_devices()[:1]],
            "device_memory": jax_setup.device_memory(),
            "engine": dataclasses.asdict(experiment.engine),
            "threads": getattr(getattr(experiment.env, "physics", None), "threads", None),  # others' have no engine
            "seed": cfg.seed,
        },
    )
    about = RunInfo(run_dir.path, f"{cfg.name}/{run_dir.path.name}", dataclasses.asdict(cfg))
    with (
        loggers.build(cfg.logger, about) as logger,
        metrics_file.MetricsWriter(run_dir.metrics_path) as writer,
    ):
        yield Records(experiment, run_dir, status, writer, logger)


@contextlib.contextmanager
def without_logging_errors() -> Iterator[None]:
    """Lines that `train.log` has no room for are dropped: on a full disk, errors of logging would hide the reason."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


def log_to_files(message: str, error: BaseException) -> None:
    """Log an error with its traceback, but not to the terminal."""
    trace = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def log_memory() -> None:
    """What the devices' memory was used for, where they count."""
    for device, taken in jax_setup.device_memory().items():
        log.info("memory of %s: %s", device, ", ".join(f"{k} {v / 2**20:,.0f} MiB" for k, v in taken.items()))


def readable(metrics: Mapping[str, Any], step_dt: float) -> dict[str, float | None]:
    """A chunk's numbers as those of a log line: the env's sums as averages over episodes, the others as they are."""
    env = summarize({name.removeprefix(ENV): x for name, x in metrics.items() if name.startswith(ENV)}, step_dt)
    return env | {name: float(x) for name, x in metrics.items() if not name.startswith(ENV)}


def _wall_time(run_dir: RunDir) -> float:
    """Seconds that the run has trained for, by its last log line."""
    lines = metrics_file.read(run_dir.metrics_path)
    return float(lines[-1]["wall_time_s"]) if lines else 0.0
