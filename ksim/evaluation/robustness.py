"""Perturbations of a task, one at a time, for the robustness table of an evaluation.

A row plays exactly what it says: what the task itself draws of the same quantity is switched off for it, and named.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ksim import robots
from ksim.config.schema import Config, ManagerBasedRlEnvCfg
from ksim.envs.context import Context
from ksim.errors import ConfigError
from ksim.mdp.events import Writes

_NAME = "robustness"  # of the event that a perturbation adds


@dataclass(frozen=True)
class Perturbation:
    """One row of the table.

    Attributes:
        name: what is perturbed, as the option of `ksim.eval`.
        value: how far.
        overrides: the changes to the task that do it.
        replaces: what of the task's own the row does without, as paths below `task`.
    """

    name: str
    value: float
    overrides: tuple[str, ...]
    replaces: tuple[str, ...] = ()


_Written = Mapping[str, Collection[str]]  # by event, what it writes

# What is tried where nothing else is asked for: factors of friction and mass, seconds, m/s.
DEFAULTS: Mapping[str, tuple[float, ...]] = {
    "friction": (0.5, 1.5),
    "mass": (0.8, 1.2),
    "latency_s": (0.01, 0.02),
    "push": (0.0, 0.3, 0.5),
}


def perturbations(
    cfg: Config,
    asked: Mapping[str, Sequence[float] | None],
    defaults: bool,
    written: _Written,
) -> list[Perturbation]:
    """The rows of the table.

    Args:
        cfg: the config that is evaluated.
        asked: by name, the values; None for those that were not given.
        defaults: fill in `DEFAULTS` for what was not given, as far as the robot allows.
        written: what each event of the task writes, as `EventManager.written` of its env.

    Raises:
        ConfigError: a delay is no whole number of physics steps.
    """
    rows: list[Perturbation] = []
    if not isinstance(cfg.task, ManagerBasedRlEnvCfg):
        if defaults or any(values is not None for values in asked.values()):
            raise ConfigError("robustness: tables of perturbations are made of tasks of terms; this is none")
        return rows
    robot = robots.load(cfg.task.scene.robot, cfg.task.scene.mjcf)
    for name, make in _MAKERS.items():
        values = asked.get(name)
        if values is None and defaults and (robot.is_floating_base or name not in _FLOATING_ONLY):
            values = _defaults(name, cfg.task)
        rows += [make(cfg.task, written, value) for value in values or ()]
    return rows


def _defaults(name: str, task: ManagerBasedRlEnvCfg) -> Sequence[float]:
    if name != "latency_s":
        return DEFAULTS[name]
    step = task.sim.timestep
    return sorted({max(round(seconds / step), 1) * step for seconds in DEFAULTS[name]})


def scaled_friction(ctx: Context, key: PRNGKeyArray, *, factor: float) -> Writes:
    """An event: the sliding friction of every geom and contact pair, named or not, times a factor."""
    del key
    model = ctx.scene.model
    writes = {"geom_friction": model.geom_friction * [factor, 1.0, 1.0]}
    if model.npair:
        writes["pair_friction"] = model.pair_friction * [factor, factor, 1.0, 1.0, 1.0]
    return {name: jnp.asarray(value) for name, value in writes.items()}


def scaled_mass(ctx: Context, key: PRNGKeyArray, *, factor: float) -> Writes:
    """An event: the mass and the inertia of every body times a factor."""
    del key
    model = ctx.scene.model
    return {name: jnp.asarray(getattr(model, name) * factor) for name in ("body_mass", "body_inertia")}


def _friction(task: ManagerBasedRlEnvCfg, written: _Written, factor: float) -> Perturbation:
    own = _events_that_write(task, written, {"geom_friction", "pair_friction"})
    return _row("friction", factor, task, own, _startup(scaled_friction, factor))


def _mass(task: ManagerBasedRlEnvCfg, written: _Written, factor: float) -> Perturbation:
    own = _events_that_write(task, written, {"body_mass", "body_inertia"})
    return _row("mass", factor, task, own, _startup(scaled_mass, factor))


def _latency(task: ManagerBasedRlEnvCfg, written: _Written, seconds: float) -> Perturbation:
    step = task.sim.timestep
    if abs(seconds / step - round(seconds / step)) > 1e-6:
        raise ConfigError(
            f"latency_s: {seconds:g} s is no whole number of physics steps of {step:g} s; "
            f"{round(seconds / step) * step:g} would be"
        )
    actions = {name: term for name, term in task.actions.items() if term is not None}
    delay = f"{{range_s: [{seconds}, {seconds}], hold_probability: 1.0}}"
    own = tuple(f"actions.{name}.delay" for name, term in actions.items() if term.get("delay"))
    return Perturbation("latency_s", seconds, tuple(f"++task.actions.{name}.delay={delay}" for name in actions), own)


def _push(task: ManagerBasedRlEnvCfg, written: _Written, speed: float) -> Perturbation:
    """Every 3 to 6 s, in place of whatever of the task's own pushes the robot during an episode."""
    own = _events_that_write(task, written, {"qvel", "xfrc_applied", "qfrc_applied"}, modes=("interval", "step"))
    event = f"{{_target_: ksim.mdp.events.push, mode: interval, interval_range_s: [3.0, 6.0], speed: {speed}}}"
    return _row("push", speed, task, own, event)


def _startup(function: Callable[..., Writes], factor: float) -> str:
    return f"{{_target_: {function.__module__}.{function.__name__}, mode: startup, factor: {factor}}}"


def _row(name: str, value: float, task: ManagerBasedRlEnvCfg, own: Sequence[str], event: str) -> Perturbation:
    """The row of an event that is added, without some of the task's own events and the curricula that drive them."""
    driven = tuple(f"events.{event}." for event in own)
    curricula = [name for name, term in task.curriculum.items() if term and str(term.get("sets")).startswith(driven)]
    paths = tuple(f"events.{event}" for event in own)
    gone = [*(f"task.curriculum.{name}=null" for name in curricula), *(f"task.{path}=null" for path in paths)]
    return Perturbation(name, value, (*gone, f"+task.events.{_NAME}={event}"), paths)


def _events_that_write(
    task: ManagerBasedRlEnvCfg,
    written: _Written,
    fields: Collection[str],
    modes: Collection[str] | None = None,
) -> list[str]:
    events = {name: term for name, term in (task.events or {}).items() if term}
    return [
        name
        for name, term in events.items()
        if set(fields) & set(written.get(name, ())) and (modes is None or term["mode"] in modes)
    ]


_MAKERS: Mapping[str, Callable[[ManagerBasedRlEnvCfg, _Written, float], Perturbation]] = {
    "friction": _friction,
    "mass": _mass,
    "latency_s": _latency,
    "push": _push,
}
_FLOATING_ONLY = ("friction", "push")
