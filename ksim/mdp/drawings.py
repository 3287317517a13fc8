"""How terms look in a picture: functions of one env at one instant, and a term of the task, that return markers."""

from collections.abc import Iterator

import numpy as np

from ksim.envs.context import Context
from ksim.envs.managers.call import bound
from ksim.envs.markers import Arrow, Rgba, Sphere
from ksim.envs.math import yaw_of
from ksim.envs.terms import Term

_ABOVE_BASE = 0.4  # m
_METRES_PER_SPEED = 0.5  # length of an arrow, m per m/s
_METRES_PER_PUSH = 1.0  # likewise: a push is smaller than a command, and part of it is inside the robot
_METRES_PER_NEWTON = 0.005
_CLOCK_RADIUS = 0.06  # m
_PUSH_SHOWN_S = 0.5  # a velocity changes in an instant
_WANTED: Rgba = (0.2, 0.6, 0.2, 1.0)
_TURN: Rgba = (0.2, 0.4, 0.9, 1.0)


def velocity_command(ctx: Context, term: Term) -> Iterator[Arrow]:
    """The commanded velocity as a green arrow above the base, and the yaw rate as a blue one, up for a left turn."""
    x, y, yaw_rate = np.asarray(ctx.command(term.name))
    yaw = float(yaw_of(ctx.base_quat))
    start = np.asarray(ctx.base_pos) + [0.0, 0.0, _ABOVE_BASE]
    over_floor = np.array([x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw), 0.0])
    yield from _arrow(start, over_floor * _METRES_PER_SPEED, _WANTED)
    yield from _arrow(start, np.array([0.0, 0.0, yaw_rate]) * _METRES_PER_SPEED, _TURN)


def gait_clock(ctx: Context, term: Term) -> Iterator[Sphere]:
    """A ball that circles above the base as the clock of a gait goes round, as seen from the robot's right; none while
    it is stopped.
    """
    cos, sin = (float(x) for x in np.asarray(ctx.command(term.name)))
    if cos or sin:
        yaw = float(yaw_of(ctx.base_quat))
        ahead = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        centre = np.asarray(ctx.base_pos) + [0.0, 0.0, _ABOVE_BASE]
        yield Sphere(centre + _CLOCK_RADIUS * (cos * ahead + [0.0, 0.0, sin]), radius=0.015, rgba=_WANTED)


def push(ctx: Context, term: Term) -> Iterator[Arrow]:
    """The last push as a red arrow from the base, for a while; a metre for each m/s that it gave."""
    last = ctx.memory[term.path]
    if float(last.steps_since) * ctx.step_dt < _PUSH_SHOWN_S:
        along = np.append(np.asarray(last.change), 0.0) * _METRES_PER_PUSH
        yield from _arrow(np.asarray(ctx.base_pos), along)


def external_force(ctx: Context, term: Term) -> Iterator[Arrow]:
    """The force on each pushed body, while it lasts, as a red arrow from the body's centre of mass."""
    bodies = ctx.scene.find("body", bound(term, ctx).bodies)
    # Forces of the step that led here: MuJoCo's are still those while the state is looked at.
    for body, force in zip(bodies, np.asarray(ctx.model_field("xfrc_applied"))[bodies, :3], strict=True):
        yield from _arrow(np.asarray(ctx.xipos[body]), force * _METRES_PER_NEWTON)


def _arrow(start: np.ndarray, along: np.ndarray, rgba: Rgba = Arrow.rgba) -> Iterator[Arrow]:
    """An arrow, unless it would be a dot."""
    if np.linalg.norm(along) > 0.01:
        yield Arrow(start, start + along, rgba=rgba)
