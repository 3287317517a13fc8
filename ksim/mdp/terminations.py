"""Termination terms: whether one env's episode ends at this instant."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from ksim.envs.context import Context
from ksim.envs.traits import term
from ksim.errors import ConfigError
from ksim.mdp.quantities import Length, metres
from ksim.robots.parts import Joints


@term(time_out=True)
def time_out(ctx: Context) -> Bool[Array, ""]:
    """The episode has had its `task.episode_length_s`; truncates, it does not terminate."""
    return ctx.episode_step >= ctx.max_episode_steps


def bad_orientation(ctx: Context, *, limit_rad: float = 1.0) -> Bool[Array, ""]:
    """The base leans more than `limit_rad` from upright."""
    return ctx.projected_gravity[2] > -jnp.cos(limit_rad)


def low_height(ctx: Context, *, limit: Length) -> Bool[Array, ""]:
    """The base is lower above the ground than `limit`, m."""
    return ctx.height_above_ground(ctx.base_pos) < metres(ctx.scene, limit)


def illegal_contact(ctx: Context, *, sensor: str, force: float = 1.0) -> Bool[Array, ""]:
    """A body or geom of a contact sensor has been touched with more than `force`, N, in any substep."""
    return jnp.any(ctx.contact(sensor).peak_force > force)


def out_of_range(
    ctx: Context, *, x_range: tuple[float, float] | None = None, y_range: tuple[float, float] | None = None
) -> Bool[Array, ""]:
    """The base has left a rectangle on the floor, m; null for no limit."""
    out = jnp.zeros((), bool)
    for axis, bounds in enumerate((x_range, y_range)):
        if bounds is not None:
            out |= (ctx.base_pos[axis] < bounds[0]) | (ctx.base_pos[axis] > bounds[1])
    return out


@term(time_out=True)
def off_ground(ctx: Context, *, margin: float = 0.5) -> Bool[Array, ""]:
    """The base is nearer than `margin`, m, to the edge of uneven ground; truncates, it does not terminate.

    Raises:
        ConfigError: the floor is flat, and has no edge.
    """
    if ctx.scene.ground is None:
        raise ConfigError("the floor has no edge; it needs task.scene.terrain=patches")
    return jnp.any(jnp.abs(ctx.base_pos[:2]) > jnp.asarray(ctx.scene.ground.half_size) - margin)


def nan(ctx: Context) -> Bool[Array, ""]:
    """The physics has diverged: the state is not finite, or the NaN guard has just put it back."""
    finite = jnp.isfinite(ctx.qpos).all() & jnp.isfinite(ctx.qvel).all()
    return ctx.diverged | ~finite


def joint_out_of_range(ctx: Context, *, joints: Joints, limit: float) -> Bool[Array, ""]:
    """One of the joints is farther than `limit` from zero, rad or m."""
    return jnp.any(jnp.abs(ctx.joint_pos[ctx.scene.find_joints(joints)]) > limit)
