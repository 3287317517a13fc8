"""One training, from a config to everything that its run directory holds."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax

from ksim.config.compose import freeze
from ksim.config.schema import Config
from ksim.diagnostics import diverged
from ksim.envs import table
from ksim.envs.log import summarize
from ksim.evaluation.best import Judge
from ksim.evaluation.evaluate import evaluate_into, sentence
from ksim.loggers import build as loggers
from ksim.loggers.logger import Logger, RunInfo
from ksim.policies.describe import describe
from ksim.policies.load import initial_policy
from ksim.rl import TrainState, init_train_state, train_chunk
from ksim.store import checkpoint, files, provenance
from ksim.store import metrics as metrics_file
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile
from ksim.system import jax_setup, trust
from ksim.training.experiment import Experiment, build, random_key
from ksim.training.progress import Progress
from ksim.training.stop import StopRequest
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
    with run_dir.lock(), StatusFile(run_dir.status_path) as status:
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
            state = _loop(experiment, run_dir, status, writer, logger, resume, stop)
        for device, taken in jax_setup.device_memory().items():
            log.info("memory of %s: %s", device, ", ".join(f"{k} {v / 2**20:,.0f} MiB" for k, v in taken.items()))
        with stop.at_once(status, run_dir):
            return _finish(experiment, run_dir, status, logger, state)


def _finish(
    experiment: Experiment, run_dir: RunDir, status: StatusFile, logger: Logger, state: TrainState
) -> float | None:
    """Plots of the training, and the final evaluation; its mean return."""
    cfg = experiment.cfg
    assert cfg.seed is not None  # the config is checked
    plot_training(metrics_file.read(run_dir.metrics_path), run_dir.plots)
    if not cfg.eval.episodes:
        return None
    step = status.status.step
    log.info("playing %d episodes of the deterministic policy ...", cfg.eval.episodes)
    result = evaluate_into(
        run_dir.eval / "final",
        experiment,
        trained(state),
        episodes=cfg.eval.episodes,
        seed=cfg.seed,
        video=cfg.eval.video,
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


def _loop(
    experiment: Experiment,
    run_dir: RunDir,
    status: StatusFile,
    writer: metrics_file.MetricsWriter,
    logger: Logger,
    resume: bool,
    stop: StopRequest,
) -> TrainState:
    """Chunks of iterations until the last step, with logs and checkpoints between them.

    Raises:
        SystemExit: a signal asked to stop; the checkpoint is written.
    """
    cfg, env = experiment.cfg, experiment.env
    steps_per_chunk = cfg.algo.dataset_size * cfg.log.interval_iterations
    total_steps = -(-cfg.algo.total_steps // steps_per_chunk) * steps_per_chunk
    judge = Judge(experiment, run_dir)
    state, step = _restore(experiment, run_dir) if resume else (None, 0)
    if state is None:
        state = first_state(experiment)
    status.update(step)
    writer.truncate_after(step)
    if resume:
        judge.recall(metrics_file.read(run_dir.metrics_path))
    chunk: Any = jit_chunk(experiment)
    saved = time.monotonic()
    started = saved - _wall_time(run_dir)
    num_kept = int(state.env_state.shared.diverged.count)  # a resume has them on disk
    told: set[str] = set()
    with stop, Progress(total_steps) as progress:
        if step < total_steps:
            compiling = time.monotonic()
            chunk = chunk.lower(state).compile()  # apart from the first chunk, whose speed is then true
            log.info("compiled the training in %.0f s", time.monotonic() - compiling)
        while step < total_steps:
            before = time.monotonic()
            state, sums = chunk(state)
            sums = jax.device_get(sums)  # waits for the chunk
            now = time.monotonic()
            step += steps_per_chunk
            line = readable(sums, env.step_dt)
            line |= {"env_steps_per_s": steps_per_chunk / (now - before), "wall_time_s": now - started}
            judged = judge.judge(trained(state)) if judge.is_due(step - steps_per_chunk, step) else None
            line |= judged or {}
            writer.write(step, line)
            logger.log(line, step)
            progress.show(step, line)
            status.update(step)
            _warn_of_not_finite(line, steps_per_chunk, told)
            if line.get("nan_guard"):
                num_kept = _keep_diverged(experiment, state, run_dir, num_kept)
            is_best = judged is not None and judge.is_best(judged)
            if is_best or now - saved > cfg.checkpoint.every_s or step >= total_steps or stop.signum:
                writer.sync()
                save(experiment, state, run_dir, step)
                if is_best and judged is not None:
                    judge.keep(step, judged)
                checkpoint.prune(run_dir.checkpoints, cfg.checkpoint.keep, [judge.best.step] if judge.best else [])
                saved = time.monotonic()
            if stop.signum and step < total_steps:
                stop.saved(status, run_dir, step)
    return state


def first_state(experiment: Experiment) -> TrainState:
    """The state at step 0: fresh envs and a fresh optimizer, and the policy of `init_from` where there is one."""
    cfg = experiment.cfg
    assert cfg.seed is not None  # the config is checked
    policy = initial_policy(experiment)
    state: TrainState = jax.jit(partial(init_train_state, experiment.env, experiment.ppo))(
        random_key(cfg.seed, "train")
    )
    return state if policy is None else dataclasses.replace(state, **policy)


def _restore(experiment: Experiment, run_dir: RunDir) -> tuple[TrainState | None, int]:
    """The state and the step of the newest whole checkpoint; nothing and 0 where the run had none yet.

    Raises:
        CheckpointError: all of them are damaged.
    """
    checkpoint.clean(run_dir.checkpoints)
    if not checkpoint.steps(run_dir.checkpoints):
        log.info("no checkpoint yet: starting from the first step")
        return None, 0
    init = partial(init_train_state, experiment.env, experiment.ppo)
    like = {"train_state": eqx.filter_eval_shape(init, jax.random.key(0))}
    found = checkpoint.load(checkpoint.newest_valid(run_dir.checkpoints, log.warning), like)
    checkpoint.discard_after(run_dir.checkpoints, found.step)
    log.info("resuming at %s steps", f"{found.step:,}")
    return found.trees["train_state"], found.step


def _wall_time(run_dir: RunDir) -> float:
    """Seconds that the run has trained for, by its last log line."""
    lines = metrics_file.read(run_dir.metrics_path)
    return float(lines[-1]["wall_time_s"]) if lines else 0.0


def jit_chunk(experiment: Experiment) -> "jax.stages.Wrapped":
    """The train program: a chunk of iterations, compiled once, its state donated."""
    program = partial(
        train_chunk, experiment.env, experiment.ppo, num_iterations=experiment.cfg.log.interval_iterations
    )
    return jax.jit(program, donate_argnums=0)


def readable(sums: Mapping[str, Any], step_dt: float) -> dict[str, float | None]:
    """A chunk's sums as the numbers of a log line."""
    env = summarize({name.removeprefix("env/"): x for name, x in sums.items() if name.startswith("env/")}, step_dt)
    ppo = {name: float(x) for name, x in sums.items() if name.startswith("ppo/")}
    return env | ppo


def save(experiment: Experiment, state: TrainState, run_dir: RunDir, step: int) -> None:
    """Write a checkpoint.

    Raises:
        CheckpointError: the disk is full, or another error of the file system; the older checkpoints are whole.
    """
    trees: dict[str, Any] = {"policy": policy_of(state), "train_state": state}
    if experiment.env.curriculum.terms:
        trees["curriculum"] = state.env_state.shared.curriculum
    checkpoint.save(run_dir.checkpoints, step, jax.device_get(trees), describe(experiment))


def policy_of(state: TrainState) -> dict[str, Any]:
    """The part of the state that acts, as a checkpoint's tree `policy`."""
    return {"net": state.net, "normalizer": state.normalizer}


def trained(state: TrainState) -> dict[str, Any]:
    """The policy, and how far the curricula have come: what an evaluation plays."""
    return policy_of(state) | {"curriculum": state.env_state.shared.curriculum}


def _log_to_files(message: str, error: Exception) -> None:
    """Log an error with its traceback, but not to the terminal."""
    trace = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _keep_diverged(experiment: Experiment, state: TrainState, run_dir: RunDir, num_kept: int) -> int:
    """Write the envs that broke the physics, with their model, but for the first `num_kept`; how many there are now."""
    found = jax.device_get(state.env_state.shared.diverged)
    if found.count > num_kept:
        diverged.save(run_dir.nan_guard, experiment.env.scene.model, found, num_kept)
        log.warning(
            "envs diverged and were reset; what the physics was given in the first of them is in %s"
            " (README, Troubleshooting: how to replay it)",
            run_dir.nan_guard,
        )
    return int(found.count)


def _warn_of_not_finite(line: Mapping[str, Any], num_steps: int, told: set[str]) -> None:
    """Tell of each term, once a run, that its values were not finite in some of a log line's env steps."""
    for name, count in line.items():
        prefix, _, path = name.partition("/")
        if prefix == "not_finite" and path not in told:
            told.add(path)
            log.warning(
                "%s was not finite in %d of the last %s env steps and counted as 0 there; metrics.jsonl goes on "
                "counting in %s",
                path,
                count,
                f"{num_steps:,}",
                name,
            )
