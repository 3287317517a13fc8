"""``python -m ksim.run resume=<run>``: a training goes on, from its frozen config and its newest checkpoint."""

from collections.abc import Sequence
from typing import Any

from ksim.config import compose
from ksim.config.schema import Config
from ksim.errors import ConfigError
from ksim.evaluation import conditions
from ksim.loggers import build as loggers
from ksim.store import run_dir
from ksim.store.run_dir import RunDir
from ksim.system import trees
from ksim.system.logs import logging_to
from ksim.training.checks import checked, load_checked

# What may change: how long it goes on, what is written, and on how many devices; everything else makes another
# training.
_MAY_CHANGE = ("algo.total_steps", "log.", "logger.", "checkpoint.", "eval.", "runs_dir", "physics.devices")


def is_resume(argv: Sequence[str]) -> bool:
    """Whether a command line resumes a run."""
    return any(argument.startswith("resume=") for argument in argv)


def resume(argv: Sequence[str]) -> None:
    """Resume as the command line asks: `resume=<run> [override ...]`.

    Raises:
        KsimError: there is no such run, or an override would make another training of it.
    """
    from ksim.training.loop import train  # late: it initialises what a login node must not

    (spec,) = [a.removeprefix("resume=") for a in argv if a.startswith("resume=")]
    overrides = [a for a in argv if not a.startswith("resume=")]
    runs_dir = next((a.removeprefix("runs_dir=") for a in overrides if a.startswith("runs_dir=")), "runs")
    run = run_dir.open(spec, runs_dir)
    cfg = resumed_config(run, [a for a in overrides if not a.startswith("runs_dir=")])
    with logging_to(run.log_path):
        train(cfg, run, resume=True)


def resumed_config(run: RunDir, overrides: Sequence[str]) -> Config:
    """A run's frozen config with overrides that may change in a resume.

    Raises:
        ConfigError: an override differs where it may not, with the paths that differ.
    """
    frozen = load_checked(run.config_path)
    cfg = checked(compose.with_overrides(frozen, overrides))
    loggers.check(cfg.logger)
    conditions.check(cfg)
    refused = {path: pair for path, pair in differences(frozen, cfg).items() if not path.startswith(_MAY_CHANGE)}
    if refused:
        listed = ", ".join(f"{path} ({before} -> {after})" for path, (before, after) in refused.items())
        raise ConfigError(
            f"resume={run.path}: a resume continues the same training, and this would change it: {listed}; "
            f"start a new run for that, from the policy of this one with init_from={run.path} "
            "(algo.total_steps, log, logger, checkpoint, eval and physics.devices may change)"
        )
    return cfg


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Where two configs differ: YAML path -> the value of each, None where it has none."""
    return trees.differences(compose.plain(a), compose.plain(b))
