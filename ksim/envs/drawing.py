"""What the terms of an env draw, as `@term(draws=...)` declares it."""

from collections.abc import Iterable

import mujoco
import numpy as np
from jaxtyping import Array

from ksim.envs.carry import EnvCarry
from ksim.envs.env import Env
from ksim.envs.markers import Marker
from ksim.envs.terms import Term
from ksim.envs.traits import Drawing, traits_of
from ksim.envs.tree import env_at, replace


def drawn_terms(env: Env) -> list[tuple[Term, Drawing]]:
    """The terms of an env that say how they are drawn."""
    managers = (env.commands, env.events, env.rewards, env.terminations, env.metrics)
    drawn = ((term, traits_of(term.func).draws) for m in managers for term in m.terms.values())
    return [(term, drawing) for term, drawing in drawn if drawing is not None]


def draw(env: Env, carry: EnvCarry, index: int, terms: Iterable[tuple[Term, Drawing]]) -> list[Marker]:
    """What terms draw of one env.

    Args:
        env: the env.
        carry: of E envs.
        index: which of them.
        terms: as `drawn_terms` gives them.
    """
    one = env_at(carry, index)
    physics = replace(one.physics, fields=_positions(env.scene.model, one.physics.qpos))
    ctx = env.context(replace(one, physics=physics), carry.shared)
    return [marker for term, drawing in terms for marker in drawing(ctx, term)]


def _positions(model: mujoco.MjModel, qpos: Array) -> dict[str, np.ndarray]:
    """Where bodies, geoms and sites are: an engine carries of this only what the task's terms read."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return {name: np.array(getattr(data, name)) for name in ("xpos", "xquat", "xipos", "geom_xpos", "site_xpos")}
