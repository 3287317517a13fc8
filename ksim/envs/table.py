"""A task as people check it at the start of a run: its groups and terms, with weights, shapes and resolved names."""

import dataclasses
import io
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from ksim.config.values import parameters
from ksim.envs.env import Env
from ksim.envs.foreign import ForeignEnv
from ksim.envs.scene import Scene
from ksim.envs.terms import Term
from ksim.envs.traits import traits_of
from ksim.errors import ConfigError
from ksim.robots.parts import Kind


def describe(env: Env) -> Group:
    """Tables of an env's managers, those without a term left out, for `rich.console.Console.print`."""
    return Group(*_tables(env))


def text(env: Env, width: int = 120) -> str:
    """The same as plain text, `width` characters wide."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        console.print(describe(env))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _tables(env: Env) -> Iterator[Table]:
    if isinstance(env, ForeignEnv):
        yield _of_foreign(env)
        return
    scene = env.scene
    if scene.contacts:
        rows = ((sensor.name, len(sensor.elements), ", ".join(sensor.elements)) for sensor in scene.contacts.values())
        yield _table("contact sensors", ("name", "elements", "of"), rows)
    if env.commands.terms:
        yield _of_terms("commands", env.commands.terms, scene)
    for group, sizes in env.obs_sizes.items():
        terms = env.observations.groups[group].terms
        total = sum(sizes.values())
        switches = _settings(env.observations.groups[group].settings)
        title = f"observations.{group} ({total})" + (f": {switches}" if switches else "")
        yield _of_terms(title, terms, scene, shape={name: (size,) for name, size in sizes.items()})
    shapes = {name: (len(action.joints_a),) for name, action in env.actions.actions.items()}
    yield _of_terms(f"actions ({env.action_size})", env.actions.terms, scene, shape=shapes)
    if env.rewards.terms:
        scale = "per second" if env.cfg.scale_rewards_by_dt else "per step"
        yield _of_terms(f"rewards (weights {scale})", env.rewards.terms, scene)
    if env.terminations.terms:
        kind = {name: ("truncates" if name in env.terminations.time_outs else "",) for name in env.terminations.terms}
        yield _of_terms("terminations", env.terminations.terms, scene, kind=kind)
    if env.events.terms:
        yield _of_terms("events", env.events.terms, scene)
    if env.curriculum.terms:
        yield _of_terms("curriculum", env.curriculum.terms, scene)
    if env.metrics.terms:
        yield _of_terms("metrics", env.metrics.terms, scene)
    if env.events.model_fields:
        fields = ((name, path.removeprefix("task.")) for name, path in env.events.model_fields.items())
        yield _table("fields that differ between envs", ("field", "first written by"), fields)


def _of_foreign(env: ForeignEnv) -> Table:
    rows = [(f"observations.{group}", str(sum(sizes.values()))) for group, sizes in env.obs_sizes.items()]
    rows += [("actions", f"{env.action_size}: {', '.join(env.action_names)}"), ("env step", f"{env.step_dt:g} s")]
    rows += [("longest episode", f"{env.max_episode_steps} env steps" if env.max_episode_steps else "no limit")]
    return _table(env.about, ("", ""), rows)


def _of_terms(title: str, terms: dict[str, Term], scene: Scene, **columns: dict[str, tuple[Any, ...]]) -> Table:
    rows = (
        (
            name,
            *(str(*column[name]) if len(column[name]) == 1 else column[name] for column in columns.values()),
            _function(term),
            _settings(term.settings),
            _parameters(term, scene),
        )
        for name, term in terms.items()
    )
    return _table(title, ("term", *columns, "function", "settings", "parameters"), rows)


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", expand=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


def _function(term: Term) -> str:
    return f"{term.func.__module__}.{term.func.__qualname__}".removeprefix("ksim.mdp.")


def _settings(settings: Any) -> str:
    """What differs from the defaults."""
    shown = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            shown.append(f"{field.name}={_value(value)}")
    return " ".join(shown)


def _parameters(term: Term, scene: Scene) -> str:
    shown, known = [], parameters(term.func)[0]
    for name in term.parameter_names:
        if name in term.driven:
            shown.append(f"{name}=curriculum.{term.driven[name]}")
            continue
        kind = _kind(known[name].annotation) if name in known else None
        value = term.params[name] if name in term.params else known[name].default
        if name in term.params or kind is not None:
            shown.append(f"{name}={_value(value)}{_resolved(kind, value, scene, traits_of(term.func).actuated)}")
    if "weight" in term.driven:
        shown.append(f"weight=curriculum.{term.driven['weight']}")
    return " ".join(shown)


def _kind(annotation: Any) -> Kind | None:
    """What a parameter's names are those of (`Joints`, `Bodies`, ...); None where it holds no names."""
    for option in (annotation, *typing.get_args(annotation)):
        found = [kind for kind in getattr(option, "__metadata__", ()) if kind in typing.get_args(Kind)]
        if found:
            return found[0]
    return None


def _resolved(kind: Kind | None, names: Any, scene: Scene, actuated: bool) -> str:
    """What names are found, with their ids; of the actuated joints only where the term looks among these."""
    if kind is None or not isinstance(names, str | tuple) or names == ".*":
        return ""
    try:
        if kind == "joint":
            found = {scene.joint_names[i]: int(scene.joint_ids[i]) for i in scene.find_joints(names, actuated=actuated)}
        else:
            found = {getattr(scene.model, kind)(i).name: int(i) for i in scene.find(kind, names)}
    except ConfigError:
        return ""  # a default that this robot lacks
    return " → " + ", ".join(f"{name} ({i})" for name, i in found.items())


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return f"({_settings(value)})"
    if isinstance(value, tuple | list | np.ndarray):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
