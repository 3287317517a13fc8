"""What a sweep's jobs are: each has a run directory with its config, frozen before anything is sent away."""

import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ksim.config import compose
from ksim.config.hydra_internals import get_overrides_dirname
from ksim.config.overrides import parse_overrides, texts
from ksim.config.schema import Config
from ksim.errors import ConfigError, KsimError
from ksim.store import files
from ksim.store.run_dir import RunDir, is_run_dir
from ksim.system import trust
from ksim.training.checks import checked_new
from ksim.training.resume import differences

log = logging.getLogger(__name__)

# Overrides that may be others when a sweep is sent again.
_NOT_THE_TRAINING = ("launcher", "logger", "sweeper", "runs_dir")


@dataclass(frozen=True)
class Planned:
    """A job of a sweep.

    Attributes:
        overrides: what makes it this job.
        run: its run directory, `<sweep>/<number>_<overrides>`.
        config: the checked config.
        is_new: whether the run directory is yet to be made.
        hydra: what goes into `.hydra/`: file name -> content.
    """

    overrides: tuple[str, ...]
    run: RunDir
    config: Config
    is_new: bool
    hydra: dict[str, Any]


def plan(loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]], first: int) -> list[Planned]:
    """Compose and check jobs; nothing is made on disk.

    Args:
        loader: Hydra's, which knows where the YAML files are.
        master: the sweep's config, its overrides not applied.
        jobs: overrides of each job.
        first: number of the first one.

    Raises:
        ConfigError: for every mistake in a job, and where a run directory belongs to other overrides.
    """
    swept = _swept_keys(master)
    planned = [_plan_one(loader, master, overrides, first + i, swept) for i, overrides in enumerate(jobs)]
    seen: dict[Path, Planned] = {}
    for job in planned:
        if other := seen.get(job.run.path):
            raise ConfigError(
                f"hydra.sweep.subdir: {' '.join(other.overrides)} and {' '.join(job.overrides)} would share"
                f" {job.run.path}; keep the default, or let it hold ${{hydra.job.num}}"
            )
        seen[job.run.path] = job
    return planned


def freeze(jobs: Sequence[Planned]) -> None:
    """Make the run directories of new jobs; a folder with a `config.yaml` is whole.

    Raises:
        KsimError: it cannot be written; then none of this call is left.
    """
    begun = []
    try:
        for job in (job for job in jobs if job.is_new):
            begun.append(job)
            hydra = job.run.path / ".hydra"
            hydra.mkdir(parents=True, exist_ok=True)
            for name, content in job.hydra.items():
                OmegaConf.save(content, hydra / f"{name}.yaml")
            files.write_atomic(job.run.config_path, compose.freeze(job.config).encode())
            trust.sign(job.run.config_path)
    except OSError as error:
        withdraw(begun)
        raise KsimError(f"{error.filename or 'the sweep'}: cannot be written: {error.strerror}") from error


def withdraw(jobs: Sequence[Planned]) -> None:
    """Remove what `freeze` made of jobs that were new and were never sent; what else lies there stays."""
    for job in jobs:
        if job.is_new:
            trust.unsign(job.run.config_path)
            job.run.config_path.unlink(missing_ok=True)
            shutil.rmtree(job.run.path / ".hydra", ignore_errors=True)
            with suppress(OSError):
                job.run.path.rmdir()


def _swept_keys(master: DictConfig) -> set[str]:
    """What the sweep varies."""
    params = OmegaConf.select(master, "hydra.sweeper.params") or {}
    given = [*texts(master.hydra.overrides.task), *(f"{key}={value}" for key, value in params.items())]
    return {o.key_or_group for o in parse_overrides(given) if o.is_sweep_override()}


def _dirname(job: DictConfig, swept: Collection[str]) -> str:
    """Hydra's name for a job's overrides, without those that all jobs share; with them where none is swept."""
    config = job.hydra.job.config.override_dirname
    overrides = parse_overrides(texts(job.hydra.overrides.task))
    varied = [o for o in overrides if o.key_or_group in swept]
    return get_overrides_dirname(varied or overrides, config.exclude_keys, config.item_sep, config.kv_sep)


def _plan_one(
    loader: ConfigLoader, master: DictConfig, overrides: Sequence[str], number: int, swept: Collection[str]
) -> Planned:
    job = loader.load_sweep_config(master, list(overrides))
    with open_dict(job):
        job.hydra.job.num = number
        job.hydra.job.id = str(number)
        job.hydra.job.override_dirname = _dirname(job, swept)
    with _as_hydras(job):
        run = RunDir(Path(str(job.hydra.sweep.dir)).absolute() / str(job.hydra.sweep.subdir))
        config = checked_new(compose.to_config(job))
        for settings in config.logger.values():
            if settings is not None and settings.get("group", "") is None:
                settings["group"] = run.path.parent.name
        with read_write(job.hydra.runtime), open_dict(job.hydra.runtime):
            job.hydra.runtime.output_dir = str(run.path)
        given = texts(job.hydra.overrides.task)
        hydra = {
            "config": OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"]),
            "hydra": OmegaConf.masked_copy(job, ["hydra"]),
            "overrides": OmegaConf.create(given),
        }
    if not is_run_dir(run.path):
        return Planned(tuple(overrides), run, config, True, hydra)
    _check_same(run, given, config)
    return Planned(tuple(overrides), run, config, False, hydra)


def _check_same(run: RunDir, given: Sequence[str], config: Config) -> None:
    """The sweep is sent again: overrides must be the old ones; what YAML files say now does not count."""
    path = run.path / ".hydra" / "overrides.yaml"
    try:
        before = [str(item) for item in OmegaConf.load(path)]
    except OSError:
        before = list(given)
    changed = sorted(o for o in set(before) ^ set(given) if o.partition("=")[0] not in _NOT_THE_TRAINING)
    if changed:
        listed = " ".join(changed)
        raise ConfigError(f"{run.path} belongs to other overrides ({listed}); choose another hydra.sweep.dir")
    frozen = compose.load_frozen(run.config_path)
    drawn = ("seed", "physics.engine") if "seed=null" in given else ("physics.engine",)
    if edited := [path for path in differences(frozen, config) if path not in drawn]:
        log.warning("%s keeps the config it was sent with; what YAML says now differs: %s", run.path, ", ".join(edited))


@contextmanager
def _as_hydras(cfg: DictConfig) -> Iterator[None]:
    """Lets `${hydra:...}` in the config mean this job."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before
