"""The command line of `ksim.run`: a pre-flight that finds every mistake first, then Hydra's own main.

Hydra makes the run directory before it calls anything of ours. The pre-flight therefore composes and checks everything
beforehand, each job of a sweep too, and claims the run directory only when nothing is wrong. It starts no JAX backend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ksim import compose, resume
from ksim.config import Config
from ksim.entry import entry, look_in_working_directory, report
from ksim.errors import ConfigError, KsimError
from ksim.store import run_dir as store


def main() -> None:
    """Trains as `sys.argv` asks; exits with 2 and one message on stderr where the user made a mistake."""
    look_in_working_directory()
    if resume.is_resume(sys.argv[1:]):
        return entry(resume.resume)
    try:
        sys.argv[1:] = preflight(sys.argv[1:])
        app = hydra.main(config_path=str(compose.conf_dir()), config_name=compose.CONFIG_NAME, version_base="1.3")
    except KsimError as error:
        sys.exit(report(error))
    app(job)()


def job(cfg: DictConfig) -> float | None:
    """What Hydra calls for a run and for each job of a sweep, in a run directory that exists."""
    from ksim.train import train  # late: it initialises what a login node must not

    settings = HydraConfig.get()
    try:
        return train(compose.to_config(cfg), store.RunDir(Path(settings.runtime.output_dir)))
    except KsimError as error:
        if settings.mode == RunMode.MULTIRUN:  # the other jobs go on
            raise CompactHydraException(str(error)) from error
        sys.exit(report(error))


def preflight(argv: Sequence[str]) -> list[str]:
    """Checks a command line and returns the one for Hydra; for a single run, its run directory is claimed.

    Raises:
        KsimError: for every mistake; then nothing was made on disk.
    """
    args = get_args_parser().parse_args(list(argv))
    if args.hydra_help or args.info or args.shell_completion:
        return list(argv)  # Hydra only prints
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun would write into the old run directory; start a new run instead")
    overrides = compose.parse_overrides(args.overrides)
    compose.check_old_flags({o.key_or_group: o.get_value_string() for o in overrides if not o.is_delete()})
    for override in overrides:
        key = override.key_or_group
        if key == "hydra.run.dir":
            raise ConfigError("hydra.run.dir: ksim names each run directory; choose the folder with runs_dir=<folder>")
        if override.is_delete() and "." not in key:
            raise ConfigError(f"{override.input_line}: a run cannot be without; choose another one with {key}=...")
    config_name = args.config_name or compose.CONFIG_NAME
    with compose.composer(args.config_dir, args.config_path, config_name) as load:
        cfg = load(args.overrides, is_sweep=args.multirun)
        if args.help or args.cfg:
            return list(argv)
        if args.multirun or cfg.hydra.mode == RunMode.MULTIRUN:
            for job_overrides in _expand(cfg, overrides):
                try:
                    compose.to_config(load(job_overrides))
                except ConfigError as error:
                    raise ConfigError(f"{error} [in the job {' '.join(job_overrides)}]") from error
            return list(argv)
        _refuse_cluster_without_sweep(cfg, argv)
        config = compose.to_config(cfg)
    return [*argv, _run_dir_override(config)]


def _expand(cfg: DictConfig, overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's own sweeper will make them."""
    own = [o for o in overrides if o.is_hydra_override()]
    swept = [o for o in overrides if not o.is_hydra_override()]
    params = OmegaConf.select(cfg, "hydra.sweeper.params") or {}
    swept = compose.parse_overrides([f"{key}={value}" for key, value in params.items()]) + swept
    if not str(cfg.hydra.sweeper._target_).endswith("BasicSweeper"):
        # Another sweeper draws its values itself: what it does not sweep is checked.
        return [[o.input_line or "" for o in (*own, *swept) if not o.is_sweep_override()]]
    try:
        (jobs,) = BasicSweeper.split_arguments(swept, None)
    except HydraException as error:
        raise ConfigError(str(error)) from error
    return [[*(o.input_line or "" for o in own), *job] for job in jobs]


def _refuse_cluster_without_sweep(cfg: DictConfig, argv: Sequence[str]) -> None:
    choices = cfg.hydra.runtime.choices
    if choices.get("hydra/launcher", "basic") != "basic":  # Hydra would run it here and say nothing
        launcher = choices.get("launcher", "local")
        flag = f"launcher={launcher}" if launcher != "local" else f"hydra/launcher={choices['hydra/launcher']}"
        raise ConfigError(f"{flag} sends nothing away without -m; write: python -m ksim.run -m {' '.join(argv)}")


def _run_dir_override(config: Config) -> str:
    path = str(store.claim(config.runs_dir, config.name).path)
    quoted = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'hydra.run.dir="{quoted}"'
