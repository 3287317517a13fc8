"""How an env is looked at: the model with everything visible, the task's camera, and what its terms draw."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import mujoco
import numpy as np
from jaxtyping import Array

from ksim.envs.context import Context
from ksim.envs.env import Env
from ksim.envs.scene import build_scene
from ksim.envs.state import EnvState
from ksim.envs.terms import Term
from ksim.envs.tree import STATE_AXES, replace
from ksim.viz.markers import Marker
from ksim.viz.render import Camera

Drawing = Callable[[Context, Term], Iterable[Marker]]
D = TypeVar("D", bound=Drawing)

_drawings: dict[Callable, Drawing] = {}


def draws(func: Callable) -> Callable[[D], D]:
    """Declare how a term is drawn: the decorated function takes the context of one env and the term, as the task has
    it, and returns markers in the world.

    Args:
        func: the term's function or class.
    """

    def decorate(drawing: D) -> D:
        _drawings[func] = drawing
        return drawing

    return decorate


def drawn_terms(env: Env) -> list[tuple[Term, Drawing]]:
    """The terms of an env that say how they are drawn."""
    import ksim.mdp.drawings  # noqa: F401  (those of ksim's own terms)

    managers = (env.commands, env.events, env.rewards, env.terminations, env.metrics)
    return [(t, _drawings[t.func]) for m in managers for t in m.terms.values() if t.func in _drawings]


def draw(env: Env, state: EnvState, index: int, terms: Iterable[tuple[Term, Drawing]]) -> list[Marker]:
    """What terms draw of one env.

    Args:
        env: the env.
        state: its state, of E envs.
        index: which of them.
        terms: as `drawn_terms` gives them.
    """

    def pick(axis: int | None, part: Any) -> Any:
        return part if axis is None else jax.tree.map(lambda x: x[index], part)

    one: EnvState = jax.tree.map(pick, STATE_AXES, state, is_leaf=lambda x: x is None)
    physics = replace(one.physics, fields=_positions(env.scene.model, one.physics.qpos))
    ctx = Context(
        env.scene, replace(one, physics=physics), step_dt=env.step_dt, max_episode_steps=env.max_episode_steps
    )
    return [marker for term, drawing in terms for marker in drawing(ctx, term)]


def _positions(model: mujoco.MjModel, qpos: Array) -> dict[str, np.ndarray]:
    """Where bodies, geoms and sites are: an engine carries of this only what the task's terms read."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return {name: np.array(getattr(data, name)) for name in ("xpos", "xquat", "xipos", "geom_xpos", "site_xpos")}


def visual_model(env: Env) -> mujoco.MjModel:
    """The model with everything that is there to be looked at; `qpos` is that of the env's model."""
    return build_scene(env.cfg, env.actions.control, visual=True).model


def camera(env: Env) -> Camera:
    """The task's camera; it follows the base of a robot that can move away."""
    viewer, robot = env.cfg.viewer, env.scene.robot
    track = robot.base_body if robot.is_floating_base else None
    return Camera.between(viewer.position, viewer.target, track=track, width=viewer.width, height=viewer.height)
