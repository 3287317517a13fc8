"""The pre-flight of a sweep: every job is composed and checked before anything is made or sent."""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ksim.config import compose, devices
from ksim.config.compose import Loader
from ksim.config.hydra_internals import BasicSweeper
from ksim.config.overrides import parse_overrides
from ksim.config.words import hint
from ksim.errors import ConfigError
from ksim.store import run_dir
from ksim.training.checks import checked_new

# What the whole sweep has one of; Hydra itself refuses to sweep over `hydra.*`.
_ONE_OF = ("launcher", "sweeper", "runs_dir")


def check_sweep(load: Loader, cfg: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Check all jobs of a sweep, and claim its folder.

    Args:
        load: composes a job.
        cfg: the sweep's config, its swept overrides not applied.
        overrides: of the command line.

    Returns:
        Overrides to add for Hydra.

    Raises:
        ConfigError: for every mistake in any of the jobs; nothing was made on disk.
    """
    from ksim.sweep import launchers  # late: a single run needs none of it

    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override() and key in _ONE_OF:
            values = override.get_value_string()
            raise ConfigError(f"{key}={values}: a sweep has one {key}; start a sweep for each of them")
    launcher = cfg.hydra.runtime.choices.get("launcher", "local")
    if not launchers.is_ours(str(cfg.hydra.launcher._target_)):
        raise ConfigError(
            f"launcher={launcher}: its jobs would read the YAML files anew when they start; build on one of ksim's,"
            " with 'defaults: [slurm]' and the settings under 'hydra: launcher:'"
        )
    if str(cfg.hydra.launcher._target_).endswith("SlurmLauncher") and not shutil.which("sbatch"):
        raise ConfigError(f"launcher={launcher}: there is no Slurm here (no 'sbatch' on PATH); use its login node")
    if (size := cfg.hydra.launcher.get("jobs_per_pack")) is not None and size < 1:
        raise ConfigError(f"hydra.launcher.jobs_per_pack: must be above 0, not {size}")
    processes = _check_processes(cfg, launcher)
    is_packed = str(cfg.hydra.launcher._target_).endswith("PackedLauncher") or (size or 1) > 1
    sweep_dir = _sweep_dir(cfg)
    for job in expand(cfg, overrides):
        try:
            composed = load(job)
            config = checked_new(compose.to_config(composed))
            if is_packed and (count := config.physics.devices) not in (None, 1):
                raise ConfigError(f"physics.devices: must be 1 where jobs train side by side, not {count}")
            if processes > 1:
                devices.check_processes(config, processes, "hydra.launcher.nodes x tasks_per_node")
        except ConfigError as error:
            raise ConfigError(f"{error} [in the job {' '.join(job)}]") from error
        OmegaConf.copy_cache(cfg, composed)  # the same time of day
        if (other := _sweep_dir(composed)) != sweep_dir:
            raise ConfigError(
                f"hydra.sweep.dir: must be one folder for the whole sweep, but would be {sweep_dir} and {other};"
                " what differs from job to job belongs into hydra.sweep.subdir"
            )
        if not _is_grid(cfg) and not config.eval.episodes:
            raise ConfigError("eval.episodes: must be above 0, as a search compares the final evaluations")
    launchers.register()
    unresolved = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    assert isinstance(unresolved, dict)
    if "${now" not in str(unresolved["dir"]):
        return []  # a folder that was named, perhaps of a sweep to go on with
    return [f"hydra.sweep.dir={quoted(run_dir.claim_folder(sweep_dir))}"]


def _check_processes(cfg: DictConfig, launcher: str) -> int:
    """How many processes each training is.

    Raises:
        ConfigError: more than one, where the launcher starts only one.
    """
    counts = {key: cfg.hydra.launcher.get(key, 1) for key in ("nodes", "tasks_per_node")}
    for key, count in counts.items():
        if count < 1:
            raise ConfigError(f"hydra.launcher.{key}: must be above 0, not {count}")
        if count > 1 and not str(cfg.hydra.launcher._target_).endswith("SlurmLauncher"):
            raise ConfigError(
                f"hydra.launcher.{key}: must be 1 with launcher={launcher}, not {count}; launcher=slurm has more"
            )
        if count > 1 and (cfg.hydra.launcher.get("jobs_per_pack") or 1) > 1:
            raise ConfigError(f"hydra.launcher.{key}: must be 1 where jobs_per_pack is above 1, not {count}")
    return int(counts["nodes"] * counts["tasks_per_node"])


def check_launcher(cfg: DictConfig) -> None:
    """Refuse settings that a leading + smuggled into the launcher's.

    Raises:
        ConfigError: naming the first one.
    """
    known = OmegaConf.get_type(cfg.hydra.launcher)
    if not dataclasses.is_dataclass(known):
        return
    names = [field.name for field in dataclasses.fields(known)]
    for key in cfg.hydra.launcher:
        if key not in names:
            launcher = cfg.hydra.runtime.choices.get("launcher", "local")
            near = hint(str(key), names) or f"; launcher={launcher} has no such setting"
            raise ConfigError(f"hydra.launcher.{key}: no such key{near}")


def quoted(path: Path) -> str:
    """A path as a value in Hydra's grammar."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _sweep_dir(cfg: DictConfig) -> Path:
    return Path(str(cfg.hydra.sweep.dir)).absolute()


def _is_grid(cfg: DictConfig) -> bool:
    return str(cfg.hydra.sweeper._target_).endswith(".BasicSweeper")


def expand(cfg: DictConfig, overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep, as Hydra's own sweeper will make them; of a search, samples of them."""
    own = [o.input_line or "" for o in overrides if o.is_hydra_override()]
    swept = [o for o in overrides if not o.is_hydra_override()]
    params = OmegaConf.select(cfg, "hydra.sweeper.params") or {}
    swept = parse_overrides([f"{key}={value}" for key, value in params.items()]) + swept
    jobs = _grid(swept) if _is_grid(cfg) else _samples(swept)
    return ([*own, *job] for job in jobs)


def _grid(overrides: list[Override]) -> list[list[str]]:
    try:
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
    except HydraException as error:
        raise ConfigError(f"{error}; a search does, see sweeper=optuna") from error
    return jobs


def _samples(overrides: list[Override]) -> Iterator[list[str]]:
    """For a search, which draws its values later: what is fixed, with each value or end of each range beside it."""
    fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
    one_by_one = ([*fixed, f"{o.get_key_element()}={value}"] for o in overrides for value in _values(o))
    return chain([fixed], one_by_one)


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return []
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    return [str(item) for item in override.sweep_string_iterator()]
