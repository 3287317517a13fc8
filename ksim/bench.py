"""Where a training's time and memory go: ``python -m ksim.bench task=kbot_standing``.

Everything is measured on the states and actions of this training, in one process, the programs taking turns. The
ceiling is what C MuJoCo alone can do with them on this machine: no policy, no rewards, nothing copied out.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from ksim.config import options
from ksim.config.compose import compose
from ksim.config.overrides import check_old_flags
from ksim.config.schema import Config
from ksim.diagnostics import manager_times
from ksim.errors import ConfigError
from ksim.store import files
from ksim.system import jax_setup
from ksim.system.entry import entry
from ksim.training.checks import checked
from ksim.training.experiment import build
from ksim.training.throughput import PARTS, PROGRAMS, measure

USAGE = """\
usage: python -m ksim.bench [--config-dir <folder>] [option=value ...] [override ...]

Where a training's time and memory go, on its own states and actions.

options:
  repeats=3             turns; the median counts
  warmup=8              iterations of training before them
  managers=false        also time the managers of the env, one by one
  json=<file>           also write everything there
  <key>=value           everything else is an override of the config, as for a training
  --config-dir <folder> your own YAML files, likewise

examples:
  python -m ksim.bench task=kbot_standing
  python -m ksim.bench task=kbot_standing managers=true json=bench.json algo.num_envs=1024
"""

# What overrides may begin with; launchers are of no use here, but a training's command line is taken as it is.
_CONFIG_KEYS = (*(field.name for field in fields(Config)), "launcher", "sweeper", "hydra")


@dataclass(frozen=True)
class Options:
    """The command line; see `USAGE`."""

    repeats: int = 3
    warmup: int = 8
    managers: bool = False
    json: str | None = None

    def __post_init__(self) -> None:
        for name in ("repeats", "warmup"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be above 0, not {getattr(self, name)}")
        if self.json is not None and not (folder := Path(self.json).absolute().parent).is_dir():
            raise ConfigError(f"json: there is no folder {folder}")


def main(argv: Sequence[str]) -> None:
    """Measure as the command line asks.

    Raises:
        KsimError: a mistake of the user's.
    """
    if {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        return
    config_dir, argv = _take_config_dir(argv)
    check_old_flags({key: value for key, _, value in (a.partition("=") for a in argv)})
    chosen, overrides = options.parse(Options, argv, keys=_CONFIG_KEYS)
    jax_setup.share_the_gpu()
    cfg = checked(compose(overrides, config_dir))
    jax.config.update("jax_enable_compilation_cache", False)  # else its compile seconds would be those of a disk
    with Console(stderr=True).status("building ...") as status:
        found = measure(
            build(cfg), chosen.repeats, chosen.warmup, chosen.managers, lambda text: status.update(f"{text} ...")
        )
    found["overrides"] = overrides
    show(found)
    if chosen.json is not None:
        files.write_atomic(Path(chosen.json), files.json_bytes(found))


def _take_config_dir(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Hydra's flag for the user's own YAML files, and the rest of the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    found, rest = parser.parse_known_args(argv)
    return found.config_dir, rest


def show(found: Mapping[str, Any]) -> None:
    """Print a measurement."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    substeps = f", {found['decimation']} physics steps each" if found["decimation"] else ""
    sizes = f"{found['num_envs']} envs x {found['rollout_length']} env steps per iteration{substeps}"
    console.print(f"{found['task']}: {sizes}")
    console.print(f"physics: {found['engine']['reason']}; the ceiling: {found['threads']} of {found['cpus']} CPUs")
    speeds = Table("", "", "env steps/s", "% of ceiling", "compile (s)", title=f"median of {found['repeats']}")
    times = Table("", "", "seconds", "%", title="what an iteration goes into")
    for table, first in ((speeds, 2), (times, 2)):
        for column in table.columns[first:]:
            column.justify = "right"
    for name, row in found["programs"].items():
        compile_s = "" if row["compile_s"] is None else f"{row['compile_s']:.1f}"
        percent = "" if row["percent_of_ceiling"] is None else f"{row['percent_of_ceiling']:.1f}"
        speeds.add_row(name, PROGRAMS[name], f"{row['env_steps_per_s']:,.0f}", percent, compile_s)
    for name, part in found["parts"].items():
        times.add_row(name, PARTS[name], f"{part['seconds']:.3f}", f"{part['percent']:.1f}")
    times.add_section()
    times.add_row("an iteration", "", f"{found['iteration_s']:.3f}", "100.0")
    if found["ceiling_s"] is not None:
        percent = f"{found['programs']['train']['percent_of_ceiling']:.1f}"
        times.add_row("the ceiling", "the physics in C MuJoCo alone", f"{found['ceiling_s']:.3f}", percent)
    console.print(speeds, times)
    if found["managers"]:
        console.print(_manager_table(found))
    console.print(f"carried from step to step: {found['carry_bytes_per_env']:,.0f} bytes per env")


def _manager_table(found: Mapping[str, Any]) -> Table:
    rows = Table("", "", "seconds", "% of Env.step", title="managers of the env, each alone, in an iteration")
    for column in rows.columns[2:]:
        column.justify = "right"
    for name, row in found["managers"].items():
        rows.add_row(name, manager_times.PARTS[name][0], f"{row['seconds']:.4f}", f"{row['percent']:.1f}")
    programs = found["programs"]
    share = programs["env"]["env_steps_per_s"] / programs["physics"]["env_steps_per_s"]
    rows.add_section()
    rows.add_row("Env.step", "of the engine's own throughput", "", f"{100.0 * share:.1f}")
    return rows


if __name__ == "__main__":
    entry(main)
