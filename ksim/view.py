"""Look at a task and take hold of it: ``python -m ksim.view task=kbot_standing``, or ``run=latest`` with its policy."""

import argparse
import dataclasses
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import yaml
from rich.console import Console

from ksim.config import options, values
from ksim.config.compose import compose
from ksim.config.overrides import check_old_flags, held_command
from ksim.config.schema import Config
from ksim.config.words import hint, listed
from ksim.errors import ConfigError
from ksim.store import run_dir
from ksim.system import jax_setup
from ksim.system.entry import entry
from ksim.training.changed import changed
from ksim.training.checks import checked, load_checked
from ksim.training.experiment import Experiment, build
from ksim.viz.viewer import window
from ksim.viz.viewer.checkpoints import Checkpoints
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.simulation import Simulation

USAGE = """\
usage: python -m ksim.view task=<task> [option=value ...] [override ...]
       python -m ksim.view run=<run> [option=value ...] [task.<path>=value ...]

Shows a task, with actions of zeros, or a run, with its policy; newer checkpoints are picked up while it trains.
Nothing is written but a plot of the rewards. In the window, K shows the keys; double-click a body and Ctrl-drag to
pull it. The page in the browser (pip install 'ksim[web]') is on this machine alone, unless view.host says otherwise.

options:
  viewer=<window|web>   where; window where there is a display, else web
  checkpoint=latest     of a run: its step, `#<n>` (the n-th that is kept), `best` or `latest`, which follows newer ones
  physics=<the run's>   engine: mujoco, mjx, or auto (mjx where JAX sees an accelerator)
  num_envs=1            copies of the env
  seed=<the run's>      seed of the episodes
  runs_dir=runs         where `latest` looks
  trust=<package,...>   code outside ksim that the run may name, or true; your own runs need no word
  commands.<name>=value hold a command from the start, a list such as [0.5,0,0]
  view.<name>=value     settings of the viewer: position_step_m, speed, paused, plot_path, host, port, ...
  task.<path>=value     change the task, with the paths and the grammar of a training's command line
  --config-dir <folder> with task=: your own YAML files

examples:
  python -m ksim.view task=kbot_standing
  python -m ksim.view run=latest physics=mjx task.events.push=null
"""

VIEWERS = ("window", "web")
_CONFIG_KEYS = tuple(f.name for f in dataclasses.fields(Config))


@dataclass(frozen=True)
class Options:
    """What both command lines have; see `USAGE`."""

    viewer: str | None = None
    num_envs: int = 1

    def __post_init__(self) -> None:
        if self.viewer not in (None, *VIEWERS):
            there = f"{hint(str(self.viewer), VIEWERS)}; there are {listed(VIEWERS)}"
            raise ConfigError(f"viewer: there is no {self.viewer!r}{there}")
        if self.num_envs < 1:
            raise ConfigError(f"num_envs: must be above 0, not {self.num_envs}")


@dataclass(frozen=True)
class RunOptions(Options):
    """The command line with a run."""

    run: str = field(default="latest", metadata={"shown": "run directory or latest"})
    checkpoint: str = "latest"
    physics: str | None = None
    seed: int | None = None
    runs_dir: str = "runs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"seed: must be 0 or more, not {self.seed}")


def main(argv: Sequence[str]) -> None:
    """Show what the command line asks for, until the viewer is closed.

    Raises:
        KsimError: a mistake of the user's.
    """
    if {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        return
    jax_setup.share_the_gpu()
    check_old_flags({key: value for key, _, value in (a.partition("=") for a in argv)})
    view, argv = _take_view(argv)
    is_run = any(a.startswith("run=") for a in argv)
    setup = _of_run(view, argv) if is_run else _of_task(view, argv)
    with Console(stderr=True).status("building ..."):
        logging.basicConfig(format="%(message)s", level=logging.WARNING)  # now, so that lines go above the spinner
        simulation = setup.simulation()
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{setup.name}: {simulation.status}; {setup.experiment.engine.reason}")
    show = window.show if setup.viewer == "window" else _browser()
    show(simulation)


@dataclass(frozen=True)
class _Setup:
    """What is to be shown, and where."""

    name: str
    viewer: str
    config: InteractiveVisualizerConfig
    experiment: Experiment
    num_envs: int
    seed: int
    checkpoints: Checkpoints | None = None
    which: str = "latest"

    def simulation(self) -> Simulation:
        return Simulation(
            self.experiment.env,
            self.config,
            trained=None if self.checkpoints is None else self.checkpoints.load(self.which),
            checkpoints=self.checkpoints,
            num_envs=self.num_envs,
            seed=self.seed,
            follows=self.which == "latest",
        )


def _of_run(view: InteractiveVisualizerConfig, argv: Sequence[str]) -> _Setup:
    chosen, overrides = options.parse(RunOptions, argv, prefixes=("task.", "commands."))
    run = run_dir.open(chosen.run, chosen.runs_dir)
    trained = load_checked(run.config_path)
    overrides = [held_command(override, trained.task.commands) for override in overrides]
    cfg = changed(trained, overrides, chosen.physics)
    viewer = _resolved(chosen.viewer)
    seed = trained.seed if chosen.seed is None else chosen.seed
    assert seed is not None  # a frozen config has one
    experiment = build(cfg)
    checkpoints = Checkpoints(run, experiment.env)
    return _Setup(str(run.path), viewer, view, experiment, chosen.num_envs, seed, checkpoints, chosen.checkpoint)


def _of_task(view: InteractiveVisualizerConfig, argv: Sequence[str]) -> _Setup:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    found, argv = parser.parse_known_args(argv)
    chosen, overrides = options.parse(Options, argv, prefixes=("commands.",), keys=_CONFIG_KEYS)
    held = [o for o in overrides if o.startswith("commands.")]
    cfg = checked(compose([o for o in overrides if o not in held], found.config_dir))
    if held:
        cfg = changed(cfg, [held_command(override, cfg.task.commands) for override in held])
    viewer = _resolved(chosen.viewer)
    return _Setup(cfg.name, viewer, view, build(cfg), chosen.num_envs, cfg.seed or 0)


def _take_view(argv: Sequence[str]) -> tuple[InteractiveVisualizerConfig, list[str]]:
    """The viewer's own settings, and the rest of the command line."""
    given = {}
    for argument in argv:
        key, _, text = argument.partition("=")
        if key.startswith("view."):
            try:
                given[key.removeprefix("view.")] = yaml.safe_load(text)
            except yaml.YAMLError:
                given[key.removeprefix("view.")] = text
    view: InteractiveVisualizerConfig = values.build(InteractiveVisualizerConfig, given, "view")
    return view, [a for a in argv if not a.startswith("view.")]


def _resolved(viewer: str | None) -> str:
    """Where it will be shown; whether it can be is known before anything is built."""
    viewer = viewer or ("window" if window.has_display() else "web")
    if viewer == "window":
        window.check_display()
    return viewer


def _browser() -> Callable[[Simulation], None]:
    """What serves a page.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        module = importlib.import_module("ksim.viz.viewer.browser")  # an optional extra
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ksim"):
            raise
        raise ConfigError(f"viewer=web needs the package {error.name}: pip install 'ksim[web]'") from error
    show: Callable[[Simulation], None] = module.show
    return show


if __name__ == "__main__":
    entry(main)
