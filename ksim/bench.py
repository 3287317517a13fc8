"""Where a training's time and memory go: ``python -m ksim.bench task=kbot_standing``.

Everything is measured on the states and actions of this training, in one process, the programs taking turns. The
ceiling is what C MuJoCo alone can do with them on this machine: no policy, no rewards, nothing copied out.
"""

import argparse
import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
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
  envs=<n>,<n>,...      numbers of envs to measure, minibatches growing with them; else the config's
  vs=<engine>           also on this one: mjx, mujoco or a dotted path
  managers=false        also time the managers of the env, one by one
  json=<file>           also write everything there
  <key>=value           everything else is an override of the config, as for a training
  --config-dir <folder> your own YAML files, likewise

examples:
  python -m ksim.bench task=kbot_standing
  python -m ksim.bench task=kbot_standing physics=mujoco envs=256,512,1024 vs=mjx
  python -m ksim.bench task=kbot_standing managers=true json=bench.json algo.num_envs=1024
"""

# What overrides may begin with; launchers are of no use here, but a training's command line is taken as it is.
_CONFIG_KEYS = (*(field.name for field in fields(Config)), "launcher", "sweeper", "hydra")


@dataclass(frozen=True)
class Options:
    """The command line; see `USAGE`."""

    repeats: int = 3
    warmup: int = 8
    envs: str = ""
    vs: str | None = None
    managers: bool = False
    json: str | None = None

    @property
    def num_envs(self) -> list[int]:
        """The numbers of envs; none: the config's."""
        return [int(number) for number in self.envs.split(",") if number]

    def __post_init__(self) -> None:
        if not all(number.strip().isdecimal() and int(number) for number in self.envs.split(",") if self.envs):
            raise ConfigError(f"envs: must be whole numbers with commas, such as 256,512, not {self.envs!r}")
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
    configs = _configs(checked(compose(overrides, config_dir)), chosen)
    jax_setup.prepare(*(cfg.physics.engine for cfg in configs))
    runs = []
    with Console(stderr=True).status("building ...") as status, _empty_compile_cache():
        for cfg in configs:
            about = f"{cfg.algo.num_envs} envs on {cfg.physics.engine}: " if len(configs) > 1 else ""
            found = measure(
                build(cfg),
                chosen.repeats,
                chosen.warmup,
                chosen.managers,
                lambda text, about=about: status.update(f"{about}{text} ..."),  # type: ignore[misc]
            )
            runs.append(found | {"overrides": overrides})
            jax.clear_caches()
    for found in runs if len(runs) == 1 else ():
        show(found)
    if len(runs) > 1:
        compare(runs)
    if chosen.json is not None:
        files.write_atomic(Path(chosen.json), files.json_bytes({"runs": runs}))


def _configs(cfg: Config, chosen: Options) -> list[Config]:
    """What is to be measured: each number of envs on each engine."""
    engines = [cfg.physics.engine, *([chosen.vs] if chosen.vs is not None else [])]
    made = [
        dataclasses.replace(sized, physics=dataclasses.replace(cfg.physics, engine=engine))
        for engine in engines
        for sized in ([_sized(cfg, number) for number in chosen.num_envs] or [cfg])
    ]
    return [checked(one) for one in made]


def _sized(cfg: Config, num_envs: int) -> Config:
    """The config with other envs, rollouts as long and as many minibatches as before."""
    changes = {"num_envs": num_envs}
    if (size := getattr(cfg.algo, "num_env_states_per_minibatch", None)) is not None:
        if size * num_envs % cfg.algo.num_envs:
            unit = cfg.algo.num_envs // math.gcd(size, cfg.algo.num_envs)
            raise ConfigError(f"envs={num_envs}: minibatches that grow with them are whole with multiples of {unit}")
        changes["num_env_states_per_minibatch"] = size * num_envs // cfg.algo.num_envs
    try:
        algo = dataclasses.replace(cfg.algo, **changes)
    except ValueError as error:
        raise ConfigError(f"envs={num_envs}: {error}") from None
    scene = dataclasses.replace(cfg.task.scene, num_envs=num_envs)
    return dataclasses.replace(cfg, algo=algo, task=dataclasses.replace(cfg.task, scene=scene))


@contextlib.contextmanager
def _empty_compile_cache() -> Iterator[None]:
    """A compile cache of this process's own: first nothing is in it, then what this bench has compiled."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name, value in zip(names, (folder, 0.0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


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
    peaks = ", ".join(f"{name} {_mib(size)}" for name, size in found["peak_memory"].items())
    console.print(f"most memory: {peaks}; the training compiles from the cache in {found['warm_compile_s']:.1f} s")
    if (speed := found["programs"]["train"]["physics_steps_per_s"]) is not None:
        console.print(f"physics steps/s of the training: {speed:,.0f}")
    _show_model(console, found["model"])


def compare(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print several measurements, a row for each."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    columns = "engine|envs|train|physics|ceiling|env|cold|warm|MiB"
    table = Table(*columns.split("|"), title=f"{runs[0]['task']}, median of {runs[0]['repeats']}")
    for column in table.columns[1:]:
        column.justify = "right"
    for found in runs:
        train, env = found["programs"]["train"], found["programs"]["env"]
        table.add_row(
            found["engine"]["engine"],
            f"{found['num_envs']:,}",
            f"{train['env_steps_per_s']:,.0f}",
            _or_nothing(train["physics_steps_per_s"], ",.0f"),
            _or_nothing(train["percent_of_ceiling"], ".0f", " %"),
            f"{env['env_steps_per_s']:,.0f}",
            f"{train['compile_s']:.1f}",
            f"{found['warm_compile_s']:.1f}",
            f"{max(found['peak_memory'].values()) / 2**20:,.0f}",
        )
    console.print(table)
    console.print(
        f"on {runs[0]['device']}. train, env: env steps/s of the training and of Env.step alone; physics: physics"
        " steps/s of the training; ceiling: the training's share of what C MuJoCo does alone on"
        f" {runs[0]['threads']} of {runs[0]['cpus']} CPUs; cold, warm: seconds to compile the training with an empty"
        " and with a full compile cache"
    )
    _show_model(console, runs[0]["model"])


def _show_model(console: Console, model: Mapping[str, Any] | None) -> None:
    """What a physics step is made of, and what makes it slow; nothing of physics that is not ksim's."""
    if model is None:
        return
    size, chosen, step = model["sizes"], model["settings"], model["per_step"]
    console.print(
        f"the model: {size['dofs']} degrees of freedom, {size['geoms']} geoms that collide ({size['pairs']:,} pairs,"
        f" {size['mesh_vertices']:,} mesh vertices), {chosen['cone']} cones, {chosen['jacobian']} Jacobian,"
        f" {chosen['integrator']}"
    )
    console.print(
        f"a physics step: {step['contacts']:.1f} contacts, {step['constraint_rows']:.1f} constraint rows,"
        f" {step['iterations']:.1f} of {chosen['iterations']} {chosen['solver']} iterations; "
        + ", ".join(f"{name} {percent:.0f} %" for name, percent in model["percent"].items())
    )
    for note in model["notes"]:
        console.print(f"slow: {note}")


def _or_nothing(number: float | None, form: str, unit: str = "") -> str:
    return "" if number is None else f"{number:{form}}{unit}"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


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
