"""Event terms: what happens to an env at startup, at a reset, at intervals or at each step.

An event is a function of the context and a random key that returns what it writes, by MuJoCo's names: `qpos`,
`qvel`, `act`, or a field of mjModel that then has a value per env. Its author never calls forward.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.context import Context
from ksim.envs.math import quat_from_euler, quat_multiply

Writes = dict[str, Float[Array, "..."]]


def reset_scene_to_default(ctx: Context, key: PRNGKeyArray) -> Writes:
    """The home pose at rest."""
    del key
    return {
        "qpos": jnp.asarray(ctx.scene.home_qpos, ctx.qpos.dtype),
        "qvel": jnp.zeros_like(ctx.qvel),
        "act": jnp.zeros_like(ctx.act),
    }


def reset_root(
    ctx: Context,
    key: PRNGKeyArray,
    *,
    height_range: tuple[float, float] = (0.0, 0.0),
    tilt_range: tuple[float, float] = (0.0, 0.0),
    yaw_range: tuple[float, float] = (-jnp.pi, jnp.pi),
    lin_vel_range: tuple[float, float] = (0.0, 0.0),
    ang_vel_range: tuple[float, float] = (0.0, 0.0),
) -> Writes:
    """Move and turn the base from where it is, with a new velocity; each number uniform in its range.

    Args:
        ctx: the env.
        key: random key.
        height_range: added to the height, m.
        tilt_range: roll and pitch, rad.
        yaw_range: heading, rad.
        lin_vel_range: each axis of the linear velocity, world frame, m/s.
        ang_vel_range: each axis of the angular velocity, body frame, rad/s.
    """
    keys = jax.random.split(key, 5)
    roll_pitch = _uniform(keys[0], tilt_range, (2,))
    yaw = _uniform(keys[1], yaw_range, (1,))
    turn = quat_from_euler(jnp.concatenate([roll_pitch, yaw]).astype(ctx.qpos.dtype))
    pos = ctx.base_pos.at[2].add(_uniform(keys[2], height_range, ()))
    adr, dof = ctx.base_qpos_adr, ctx.base_dof_adr
    velocity = jnp.concatenate([_uniform(keys[3], lin_vel_range, (3,)), _uniform(keys[4], ang_vel_range, (3,))])
    pose = jnp.concatenate([pos, quat_multiply(turn, ctx.base_quat)])
    return {"qpos": ctx.qpos.at[adr : adr + 7].set(pose), "qvel": ctx.qvel.at[dof : dof + 6].set(velocity)}


def reset_joints(
    ctx: Context,
    key: PRNGKeyArray,
    *,
    joints: str = ".*",
    position_range: tuple[float, float] = (0.0, 0.0),
    velocity_range: tuple[float, float] = (0.0, 0.0),
) -> Writes:
    """Offset joints from where they are and give them a velocity, uniform in the ranges, within limits.

    Args:
        ctx: the env.
        key: random key.
        joints: regex of the joints' names.
        position_range: added to each position, rad or m.
        velocity_range: new velocities, rad/s or m/s.
    """
    scene = ctx.scene
    ids = scene.find_joints(joints)
    model_ids = scene.joint_ids[ids]
    position_key, velocity_key = jax.random.split(key)
    position = ctx.joint_pos[ids] + _uniform(position_key, position_range, (len(ids),))
    lower, upper = scene.model.jnt_range[model_ids].T
    limited = scene.model.jnt_limited[model_ids].astype(bool)
    position = jnp.where(limited, jnp.clip(position, lower, upper), position)
    velocity = _uniform(velocity_key, velocity_range, (len(ids),))
    return {
        "qpos": ctx.qpos.at[scene.joint_qpos_adr[ids]].set(position),
        "qvel": ctx.qvel.at[scene.joint_dof_adr[ids]].set(velocity),
    }


def push(ctx: Context, key: PRNGKeyArray, *, speed: float | tuple[float, float]) -> Writes:
    """Change the base's horizontal velocity by a vector of random direction.

    Args:
        ctx: the env.
        key: random key.
        speed: length of the change, m/s, or the range it is drawn from uniformly.
    """
    direction_key, speed_key = jax.random.split(key)
    angle = jax.random.uniform(direction_key, (), ctx.qvel.dtype, 0.0, 2.0 * jnp.pi)
    speed_range = (speed, speed) if isinstance(speed, float | int) else speed
    change = _uniform(speed_key, speed_range, ()) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    dof = ctx.base_dof_adr
    return {"qvel": ctx.qvel.at[dof : dof + 2].add(change)}


def randomize_friction(
    ctx: Context,
    key: PRNGKeyArray,
    *,
    geoms: str,
    range: tuple[float, float],
    operation: Literal["scale", "set"] = "scale",
) -> Writes:
    """Draw one sliding friction coefficient for the geoms, the same in all of them.

    Args:
        ctx: the env.
        key: random key.
        geoms: regex of the geoms' names.
        range: of the coefficient, or of its factor to the compiled value.
        operation: `scale` the compiled value, or `set` the coefficient.
    """
    ids = ctx.scene.find("geom", geoms)
    compiled = jnp.asarray(ctx.scene.model.geom_friction, ctx.qpos.dtype)
    drawn = _uniform(key, range, ())
    value = compiled[ids, 0] * drawn if operation == "scale" else drawn
    return {"geom_friction": ctx.model_field("geom_friction").at[ids, 0].set(value)}


def _uniform(key: PRNGKeyArray, bounds: tuple[float, float], shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])
