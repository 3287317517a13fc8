"""Termination terms: whether one env's episode ends at this instant."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from ksim.envs.context import Context


def time_out(ctx: Context) -> Bool[Array, ""]:
    """The episode has had its `task.episode_length_s`; truncates, it does not terminate."""
    return ctx.episode_step >= ctx.max_episode_steps


time_out.time_out = True  # type: ignore[attr-defined]


def bad_orientation(ctx: Context, *, limit_rad: float = 1.0) -> Bool[Array, ""]:
    """The base leans more than `limit_rad` from upright."""
    return ctx.projected_gravity[2] > -jnp.cos(limit_rad)


def low_height(ctx: Context, *, limit: float) -> Bool[Array, ""]:
    """The base is lower than `limit`, m."""
    return ctx.base_pos[2] < limit


def joint_out_of_range(ctx: Context, *, joints: str, limit: float) -> Bool[Array, ""]:
    """One of the joints is farther than `limit` from zero, rad or m."""
    return jnp.any(jnp.abs(ctx.joint_pos[ctx.scene.find_joints(joints)]) > limit)
