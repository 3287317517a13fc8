"""Evaluate a saved run: ``python -m ksim.eval run=latest``; numbers, a video and plots, into the run's `eval/`."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from ksim.config import options
from ksim.config.gate import shown_bounds
from ksim.config.overrides import check_old_flags, held_command
from ksim.config.schema import Config
from ksim.errors import ConfigError
from ksim.evaluation import gate
from ksim.evaluation.conditions import conditions
from ksim.evaluation.evaluate import Result, evaluate_into, player, summarize
from ksim.evaluation.gate import Verdict
from ksim.evaluation.robustness import DEFAULTS, perturbations
from ksim.physics.select import EngineChoice
from ksim.policies.load import load_trained
from ksim.store import files, run_dir
from ksim.store.run_dir import RunDir
from ksim.system import jax_setup
from ksim.system.entry import entry
from ksim.training.changed import changed
from ksim.training.checks import load_checked
from ksim.training.experiment import build

EXIT_GATE = 3  # exit code where the task's gate was played and not passed

USAGE = """\
usage: python -m ksim.eval run=<run> [option=value ...] [task.<path>=value ...]

Plays full episodes of a saved policy, without its exploration noise, on a random stream of its own, and writes
numbers, a video and plots into <run>/eval/<time>/. Nothing else in the run is touched; it may still be training.

options:
  run=<run>             a run directory, `latest` (the newest run), or `<task>/latest`
  checkpoint=latest     which policy: its step, `#<n>` (the n-th that is kept), `best` or `latest`
  episodes=256          how many, one per env
  seed=<the run's>      seed of the episodes; the same seed gives the same numbers
  video=true            film the first episode
  video_overlay=false   write time, commands and reward into the film
  physics=<the run's>   engine: mujoco, mjx, or auto (mjx where JAX sees an accelerator)
  compare=true          on another engine than the training's: play on that one, too, and print the gap
  gate=false            also play the conditions of the task's gate and hold the figures against its bounds; the exit
                        code is 3 where one fails
  robustness=false      also a table of perturbations, one at a time; each plays as many episodes as the evaluation,
                        in place of what the task itself draws of the same quantity (the table names it)
  friction=[0.5,1.5]    factors of every friction coefficient, for that table (without robustness=true, these alone)
  mass=[0.8,1.2]        factors of every mass
  latency_s=[0.01,0.02] delays of the actions, in seconds
  push=[0,0.3,0.5]      pushes of the base, in m/s, every 3 to 6 s
  runs_dir=runs         where `latest` looks
  trust=<package,...>   code outside ksim that the run may name, or true; your own runs need no word
  commands.<name>=value hold a command, a list such as [0.5,0,0]
  task.<path>=value     change the task, with the paths and the grammar of a training's command line

examples:
  python -m ksim.eval run=latest
  python -m ksim.eval run=kbot_standing/latest task.events.push=null
  python -m ksim.eval run=latest gate=true
  python -m ksim.eval run=latest task.events.push.speed=0.5 "task.events.push.interval_range_s=[3,6]" video=false
"""


@dataclass(frozen=True)
class Options:
    """The command line; see `USAGE`."""

    run: str = field(metadata={"shown": "run directory or latest"})
    checkpoint: str = "latest"
    episodes: int = 256
    seed: int | None = None
    video: bool = True
    video_overlay: bool = False
    physics: str | None = None
    compare: bool = True
    gate: bool = False
    robustness: bool = False
    friction: list[float] | None = None
    mass: list[float] | None = None
    latency_s: list[float] | None = None
    push: list[float] | None = None
    runs_dir: str = "runs"

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"episodes: must be above 0, not {self.episodes}")
        for name, lowest in (("friction", 0.0), ("mass", 1e-3), ("latency_s", 0.0), ("push", 0.0)):
            if any(value < lowest for value in getattr(self, name) or ()):
                raise ConfigError(f"{name}: each must be {lowest:g} or more, not {getattr(self, name)}")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"seed: must be 0 or more, not {self.seed}")


def main(argv: Sequence[str]) -> None:
    """Evaluate as the command line asks.

    Raises:
        KsimError: a mistake of the user's; nothing was written.
    """
    if {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        return
    jax_setup.share_the_gpu()
    check_old_flags({key: value for key, _, value in (a.partition("=") for a in argv)})
    chosen, overrides = options.parse(Options, argv, prefixes=("task.", "commands."))
    run = run_dir.open(chosen.run, chosen.runs_dir)
    with Console(stderr=True).status("building ...") as status:
        logging.basicConfig(format="%(message)s", level=logging.WARNING)  # now, so that lines go above the spinner
        evaluation = _evaluate(chosen, overrides, run, lambda text: status.update(f"{text} ..."))
    _show(evaluation, run)
    if not gate.passed(evaluation.verdicts):
        raise SystemExit(EXIT_GATE)


@dataclass(frozen=True)
class Evaluation:
    """What was played, and what came of it.

    Attributes:
        engine: of the evaluation.
        trained_on: the training's engine.
        step: of the checkpoint.
        overrides: what was changed in the task.
        result: of the task as it is asked for.
        compared: the same numbers on the training's engine, where that is another one.
        perturbed: rows of the robustness table, each with its `summary`.
        bounds: of the task's gate, in words, by the summary's names.
        verdicts: of its conditions, where they were played.
    """

    engine: EngineChoice
    trained_on: str
    step: int
    overrides: Sequence[str]
    result: Result
    compared: Mapping[str, float] | None
    perturbed: Sequence[Mapping[str, Any]]
    bounds: Mapping[str, str]
    verdicts: Sequence[Verdict]


def _evaluate(chosen: Options, overrides: Sequence[str], run: RunDir, tell: Callable[[str], object]) -> Evaluation:
    """Play what is asked for and write it into the run's folder."""
    trained = load_checked(run.config_path)
    overrides = [held_command(override, trained.task.commands) for override in overrides]
    cfg = changed(trained, overrides, chosen.physics)
    if chosen.gate and not conditions(cfg):
        raise ConfigError("gate=true: the task has no gate; task.gate.conditions would say what good is")
    trained_on = trained.physics.engine
    jax_setup.prepare(*{cfg.physics.engine, trained_on})
    experiment = build(cfg)
    found = load_trained(run, chosen.checkpoint, experiment.env)
    seed = trained.seed if chosen.seed is None else chosen.seed
    assert seed is not None  # a frozen config has one

    def numbers(config: Config, how: str) -> dict[str, float]:
        tell(f"playing {chosen.episodes} episodes {how}")
        other = build(config).env
        return summarize(player(other, chosen.episodes, seed)(found.policy, found.curriculum), other.step_dt)

    is_compared = chosen.compare and experiment.engine.engine != trained_on
    compared = numbers(changed(trained, overrides), f"on {trained_on}, as in the training") if is_compared else None
    asked = {name: getattr(chosen, name) for name in DEFAULTS}
    perturbed = [
        dataclasses.asdict(row) | {"summary": numbers(changed(cfg, row.overrides), f"with {row.name}={row.value}")}
        for row in perturbations(cfg, asked, chosen.robustness, experiment.env.events.written)
    ]
    verdicts = gate.play(experiment.cfg, found.policy, found.curriculum, seed, tell) if chosen.gate else []
    tell(f"playing {chosen.episodes} episodes")
    result = evaluate_into(
        run.eval / files.stamp(),
        experiment.env,
        experiment.engine,
        found.policy,
        found.curriculum,
        episodes=chosen.episodes,
        seed=seed,
        video_length_s=cfg.eval.video_length_s if chosen.video else None,
        overlay=chosen.video_overlay,
        about={
            "step": found.step,
            "options": dataclasses.asdict(chosen),
            "overrides": overrides,
            "on_the_training_engine": compared,
            "robustness": perturbed,
        },
        besides={gate.GATE: gate.record(verdicts)} if verdicts else {},
    )
    bounds = shown_bounds(cfg.task)
    return Evaluation(
        experiment.engine, trained_on, found.step, overrides, result, compared, perturbed, bounds, verdicts
    )


def _show(found: Evaluation, run: RunDir) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"run:     {run.path}, checkpoint of step {found.step:,}")
    console.print(f"physics: {found.engine.reason}")
    if found.overrides:
        console.print(f"changed: {' '.join(found.overrides)}")
    console.print(table(found.result.summary, found.bounds))
    if found.verdicts:
        console.print(gate_table(found.verdicts))
    if found.compared is not None:
        console.print(gap_table(found.result.summary, found.compared, found.engine.engine, found.trained_on))
    if found.perturbed:
        console.print(robustness_table(found.result.summary, found.perturbed))
    for path in sorted(found.result.folder.iterdir()):
        console.print(str(path))


def table(summary: Mapping[str, float], bounds: Mapping[str, str]) -> Table:
    """The summary for a person, with the bounds of the task's gate, in words, by the summary's names."""
    gate_column = ["gate"] if bounds else []

    def add(figure: str, name: str, value: str, note: str = "", end_section: bool = False) -> None:
        bound = bounds.get(figure, "")
        if median := bounds.get(f"{figure}/median"):
            bound = f"{bound}{', ' if bound else ''}median {median}"
        rows.add_row(name, value, note, *([bound] if bounds else []), end_section=end_section)

    rows = Table("", "mean", "", *gate_column, title=f"{summary['episodes']:.0f} episodes, seed {summary['seed']:.0f}")
    rows.columns[1].justify = "right"
    add("return", "return", f"{summary['return']:.3f}")
    add("episode_length_s", "episode length", f"{summary['episode_length_s']:.2f} s")
    interval = f"95 % interval {summary['falls_low']:.2%} to {summary['falls_high']:.2%}"
    add("falls", "falls", f"{summary['falls']:.2%}", interval, end_section=True)
    for prefix, form, note in (("reward/", "{:.4f}", "per second"), ("termination/", "{:.2%}", "of the episodes")):
        names = [name for name in summary if name.startswith(prefix)]
        for name in names:
            add(name, name.replace("/", " "), form.format(summary[name]), note, end_section=name == names[-1])
    for name, value in summary.items():
        if name.startswith("metric/") and not name.endswith("/median"):
            add(name, name.removeprefix("metric/"), f"{value:.4f}", f"median {summary[f'{name}/median']:.4f}")
    return rows


def gate_table(verdicts: Sequence[Verdict]) -> Table:
    """Each figure of the gate against its bound."""
    episodes = verdicts[0].summary["episodes"]
    is_passed = gate.passed(verdicts)
    title = f"the gate is {'passed' if is_passed else 'NOT passed'}, {episodes:.0f} episodes of each condition"
    rows = Table("", "", "value", "gate", "", title=title, title_justify="left")
    for column in (2, 3):
        rows.columns[column].justify = "right"
    for verdict in verdicts:
        name = verdict.condition
        for bound in verdict.bounds:
            end = bound is verdict.bounds[-1]
            value, sign = bound.shown(verdict.value(bound)), "passed" if verdict.holds(bound) else "FAILS"
            rows.add_row(name, bound.label, value, str(bound), sign, end_section=end)
            name = ""
    return rows


def gap_table(here: Mapping[str, float], there: Mapping[str, float], engine: str, trained_on: str) -> Table:
    """The same episodes on the engine of this evaluation and on the training's: a sim-to-sim check."""
    rows = Table("", engine, trained_on, "gap", title=f"the training was on {trained_on}")
    for column in rows.columns[1:]:
        column.justify = "right"
    for name, scale, unit in (("return", 1.0, ""), ("episode_length_s", 1.0, " s"), ("falls", 100.0, " %")):
        a, b = here[name] * scale, there[name] * scale
        rows.add_row(
            name.removesuffix("_s").replace("_", " "), f"{a:.3f}{unit}", f"{b:.3f}{unit}", f"{a - b:+.3f}{unit}"
        )
    return rows


def robustness_table(unperturbed: Mapping[str, float], perturbed: Sequence[Mapping[str, Any]]) -> Table:
    """What perturbations of the task do, one per row."""
    rows = Table("", "", "return", "falls", "", "in place of", title="robustness", title_justify="left")
    for column in (1, 2, 3):
        rows.columns[column].justify = "right"
    named = [
        ("as it is", "", unperturbed, ()),
        *((p["name"], f"{p['value']:g}", p["summary"], p["replaces"]) for p in perturbed),
    ]
    for name, value, summary, replaces in named:
        interval = f"{summary['falls_low']:.2%} to {summary['falls_high']:.2%}"
        rows.add_row(name, value, f"{summary['return']:.3f}", f"{summary['falls']:.2%}", interval, ", ".join(replaces))
    return rows


if __name__ == "__main__":
    entry(main)
