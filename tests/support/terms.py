"""A term's context from a plain simulation: what a term computes is compared with the same `mjData`."""

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from ksim.envs.carry import PerEnv, Shared
from ksim.envs.context import Context
from ksim.envs.managers.commands import CommandState
from ksim.envs.scene import Scene
from ksim.physics import PhysicsState
from ksim.physics.base import DERIVED_FIELDS
from support import plain


def context(
    scene: Scene,
    data: mujoco.MjData,
    *,
    action: Any = (),
    prev_action: Any = (),
    episode_step: int = 0,
    fields: dict[str, Any] | None = None,
    model_fields: dict[str, Any] | None = None,
    memory: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Context:
    """One env in the state of a simulation, with other derived fields where they are given.

    Further arguments are those of `Context`.
    """
    derived = {name: plain.field(data, name) for name in DERIVED_FIELDS} | (fields or {})
    state = (jnp.asarray(x, jnp.float32) for x in (data.qpos, data.qvel, data.act, data.qacc_warmstart))
    env = PerEnv(
        physics=PhysicsState(*state, {name: jnp.asarray(x, jnp.float32) for name, x in derived.items()}),
        model_fields={name: jnp.asarray(value, jnp.float32) for name, value in (model_fields or {}).items()},
        key=jax.random.key(0),
        episode_step=jnp.asarray(episode_step),
        action=jnp.asarray(action, jnp.float32),
        prev_action=jnp.asarray(prev_action, jnp.float32),
        timers={},
        episode={},
        memory=memory or {},
    )
    shared = Shared(key=jax.random.key(0), curriculum={}, diverged=None)  # type: ignore[arg-type]
    return Context(scene, env, shared, **({"step_dt": 0.02, "max_episode_steps": 100} | kwargs))


def commanded(*value: float, name: str = "twist") -> dict[str, Any]:
    """The memory of an env with a command."""
    return {f"task.commands.{name}": CommandState(jnp.asarray(value), None, jnp.asarray(1))}


def simulation(scene: Scene, seed: int = 0, num_steps: int = 3) -> mujoco.MjData:
    """A robot in motion: random pose (a floating base leans and turns), velocities and controls."""
    rng = np.random.default_rng(seed)
    model = scene.model
    qpos = scene.home_qpos.copy()
    qpos[scene.joint_qpos_adr] += rng.uniform(-0.3, 0.3, len(scene.joint_names))
    if scene.base_qpos_adr is not None:
        qpos[:3] += rng.uniform(-0.3, 0.3, 3)
        qpos[3:7] = rng.normal(0, 0.3, 4) + [1, 0, 0, 0]
        qpos[3:7] /= np.linalg.norm(qpos[3:7])
    data = plain.make(model, qpos, rng.normal(0, 0.5, model.nv))
    ctrl = scene.home_joint_pos[: scene.num_actuated] + rng.normal(0, 0.2, model.nu)
    return plain.step(model, data, np.tile(ctrl, (num_steps, 1)))
