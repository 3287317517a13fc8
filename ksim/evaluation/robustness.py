"""Perturbations of a task, one at a time, for the robustness table of an evaluation."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ksim import robots
from ksim.config.schema import Config, ManagerBasedRlEnvCfg
from ksim.robots import Robot

_NAME = "robustness"  # of the event that a perturbation adds


@dataclass(frozen=True)
class Perturbation:
    """One row of the table.

    Attributes:
        name: what is perturbed, as the option of `ksim.eval`.
        value: how far.
        overrides: the changes to the task that do it.
    """

    name: str
    value: float
    overrides: tuple[str, ...]


# What is tried where nothing else is asked for: factors of friction and mass, seconds, m/s.
DEFAULTS: Mapping[str, tuple[float, ...]] = {
    "friction": (0.5, 1.5),
    "mass": (0.8, 1.2),
    "latency_s": (0.01, 0.02),
    "push": (0.0, 0.3, 0.5),
}


def perturbations(cfg: Config, asked: Mapping[str, Sequence[float] | None], defaults: bool) -> list[Perturbation]:
    """The rows of the table.

    Args:
        cfg: the config that is evaluated.
        asked: by name, the values; None for those that were not given.
        defaults: fill in `DEFAULTS` for what was not given, as far as the robot allows.
    """
    rows = []
    robot = robots.load(cfg.task.scene.robot, cfg.task.scene.mjcf)
    for name, make in _MAKERS.items():
        values = asked.get(name)
        if values is None and defaults and (robot.is_floating_base or name not in _FLOATING_ONLY):
            values = DEFAULTS[name]
        rows += [Perturbation(name, value, tuple(make(cfg.task, robot, value))) for value in values or ()]
    return rows


def _friction(task: ManagerBasedRlEnvCfg, robot: Robot, factor: float) -> list[str]:
    return [_startup("friction", "geoms: '.*'", factor)]


def _mass(task: ManagerBasedRlEnvCfg, robot: Robot, factor: float) -> list[str]:
    model = robot.spec.compile()
    names = [re.escape(model.body(i).name) for i in range(model.nbody) if model.body(i).mass[0] > 0]
    return [_startup("mass", f"bodies: {names}", factor)]


def _startup(function: str, what: str, factor: float) -> str:
    event = f"{{_target_: ksim.mdp.randomize.{function}, mode: startup, {what}, range: [{factor}, {factor}]}}"
    return f"+task.events.{_NAME}={event}"


def _latency(task: ManagerBasedRlEnvCfg, robot: Robot, seconds: float) -> list[str]:
    names = [name for name, term in task.actions.items() if term is not None]
    return [f"++task.actions.{name}.delay={{range_s: [{seconds}, {seconds}]}}" for name in names]


def _push(task: ManagerBasedRlEnvCfg, robot: Robot, speed: float) -> list[str]:
    """In place of the task's own pushes, and of the curricula that set them; every 3 to 6 s."""
    own = [name for name, term in (task.events or {}).items() if term and term["_target_"] == _PUSH]
    event = f"{{_target_: {_PUSH}, mode: interval, interval_range_s: [3.0, 6.0], speed: {speed}}}"
    driving = [
        name
        for name, term in task.curriculum.items()
        if term and str(term.get("sets")).startswith(tuple(f"events.{event}." for event in own))
    ]
    gone = [*(f"task.curriculum.{name}=null" for name in driving), *(f"task.events.{name}=null" for name in own)]
    return [*gone, f"+task.events.{_NAME}={event}"]


_PUSH = "ksim.mdp.events.push"
_MAKERS: Mapping[str, Callable[[ManagerBasedRlEnvCfg, Robot, float], list[str]]] = {
    "friction": _friction,
    "mass": _mass,
    "latency_s": _latency,
    "push": _push,
}
_FLOATING_ONLY = ("friction", "push")
