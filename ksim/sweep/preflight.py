"""The command line of `ksim.run`: a pre-flight that finds every mistake first, then Hydra's own main.

Hydra makes the run directory before it calls anything of ours. The pre-flight therefore composes and checks everything
beforehand, each job of a sweep too, and claims the run directory only when nothing is wrong. It starts no JAX backend.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ksim.config import compose
from ksim.config.hydra_internals import get_args_parser
from ksim.config.overrides import check_old_flags, parse_overrides
from ksim.config.schema import Config
from ksim.errors import ConfigError, KsimError
from ksim.store import run_dir as store
from ksim.sweep.check import check_launcher, check_sweep, expand, quoted
from ksim.system import processes, trees, trust
from ksim.system.entry import entry, look_in_working_directory, report
from ksim.training import resume
from ksim.training.checks import checked_new

_GROUPS = ("task", "algo", "physics", "logger", "launcher", "sweeper")


def main() -> None:
    """Trains as `sys.argv` asks; exits with 2 and one message on stderr where the user made a mistake."""
    look_in_working_directory()
    try:
        with processes.together():
            _main() if processes.leads() else entry(_follow)
    except KsimError as error:  # the processes do not find each other
        sys.exit(report(error))


def _main() -> None:
    if resume.is_resume(sys.argv[1:]):
        entry(resume.resume)
        return
    try:
        argv = preflight(trust.take_option(sys.argv[1:]))
        if argv is None:
            return
        sys.argv[1:] = argv
        app = hydra.main(config_path=str(compose.conf_dir()), config_name=compose.CONFIG_NAME, version_base="1.3")
    except KsimError as error:
        sys.exit(report(error))
    app(job)()


def _follow(argv: Sequence[str]) -> None:
    from ksim.training.follower import follow  # late: it initialises what a login node must not

    follow()


def job(cfg: DictConfig) -> float | None:
    """What Hydra calls for a single run, in a run directory that exists; `ksim.sweep` has the jobs of a sweep."""
    from ksim.training.loop import train  # late: it initialises what a login node must not

    run = store.RunDir(Path(HydraConfig.get().runtime.output_dir))
    try:
        return train(checked_new(compose.to_config(cfg)), run)
    except KsimError as error:
        if isinstance(error, ConfigError) and not run.config_path.exists():
            run.remove()  # a mistake that showed when the terms were traced: there has been no run
        sys.exit(report(error))


def preflight(argv: Sequence[str]) -> list[str] | None:
    """Checks a command line and returns the one for Hydra; the directory of the run, or the sweep, is claimed.

    None: `--cfg job` has printed what would train, and there is nothing left to do.

    Raises:
        KsimError: for every mistake; then nothing was made on disk.
    """
    args = _parse_flags(argv)
    if args.hydra_help or args.info or args.shell_completion:
        return list(argv)  # Hydra only prints
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun would write into the old run directory; start a new run instead")
    overrides = parse_overrides(args.overrides)
    check_old_flags({o.key_or_group: o.get_value_string() for o in overrides if not o.is_delete()})
    for override in overrides:
        key = override.key_or_group
        if key == "hydra.run.dir":
            raise ConfigError("hydra.run.dir: ksim names each run directory; choose the folder with runs_dir=<folder>")
        if key == "hydra/launcher":
            raise ConfigError(f"{override.input_line}: choose one with launcher=local, packed, submitit_local or slurm")
        if override.is_add() and key in _GROUPS:
            raise ConfigError(f"{override.input_line}: a run has one {key} already; write it without the +")
        if override.is_delete() and "." not in key:
            raise ConfigError(f"{override.input_line}: a run cannot be without; choose another one with {key}=...")
    config_name = args.config_name or compose.CONFIG_NAME
    with compose.composer(args.config_dir, args.config_path, config_name) as load:
        cfg = load(args.overrides, is_sweep=args.multirun)
        if args.help or args.cfg in ("hydra", "all"):
            return list(argv)
        check_launcher(cfg)
        is_sweep = args.multirun or cfg.hydra.mode == RunMode.MULTIRUN
        if args.cfg:
            jobs = list(expand(cfg, overrides)) if is_sweep else [args.overrides]
            for job in jobs:
                _show(checked_new(compose.to_config(load(job))), args.package, job if is_sweep else ())
            return None
        if is_sweep:
            return [*argv, *check_sweep(load, cfg, overrides)]
        _refuse_cluster_without_sweep(cfg, argv)
        config = checked_new(compose.to_config(cfg))
    return [*argv, _run_dir_override(config)]


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags, and the overrides."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; settings are written without dashes, as task=<task>, and --help lists the flags")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(list(argv))


def _show(config: Config, package: str | None, job: Sequence[str]) -> None:
    """Print what would train, or a part of it."""
    found: Any = compose.plain(config)
    if package not in (None, "_global_"):
        found = trees.get(found, str(package))
        if found is None:
            raise ConfigError(f"--package {package}: the config has nothing there")
    if job:
        print(f"# {shlex.join(job)}")
    print(OmegaConf.to_yaml(OmegaConf.create(found)) if isinstance(found, dict | list) else f"{found}\n", end="")


def _refuse_cluster_without_sweep(cfg: DictConfig, argv: Sequence[str]) -> None:
    launcher = cfg.hydra.runtime.choices.get("launcher", "local")
    if launcher != "local":  # Hydra would run it here and say nothing
        command = f"python -m ksim.run -m {shlex.join(argv)}"
        raise ConfigError(f"launcher={launcher} sends nothing away without -m; write: {command}")


def _run_dir_override(config: Config) -> str:
    return f"hydra.run.dir={quoted(store.claim(config.runs_dir, config.name).path)}"
