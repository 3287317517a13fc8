"""Metric terms: numbers that are logged and not optimized."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.context import Context
from ksim.mdp.quantities import planar_velocity


def drift(ctx: Context) -> Float[Array, ""]:
    """Horizontal distance of the base from the home position, m."""
    home = ctx.scene.home_qpos[ctx.scene.base_qpos_adr :][:2]
    return jnp.linalg.norm(ctx.base_pos[:2] - home)


def speed(ctx: Context) -> Float[Array, ""]:
    """Horizontal speed of the base, m/s."""
    return jnp.linalg.norm(ctx.base_lin_vel_w[:2])


def tilt(ctx: Context) -> Float[Array, ""]:
    """Angle of the base from upright, rad."""
    return jnp.arccos(jnp.clip(-ctx.projected_gravity[2], -1.0, 1.0))


def torque_use(ctx: Context) -> Float[Array, ""]:
    """Root mean square of the actuator torques as parts of their limits, in [0, 1]."""
    return jnp.sqrt(jnp.mean(jnp.square(ctx.actuator_force / ctx.scene.robot.torque_limit_u)))


def lin_vel_error(ctx: Context, *, command: str) -> Float[Array, ""]:
    """Distance of the base's (x, y) velocity from the commanded one, in its heading frame, m/s."""
    return jnp.linalg.norm(planar_velocity(ctx)[:2] - ctx.command(command)[:2])


def yaw_rate_error(ctx: Context, *, command: str) -> Float[Array, ""]:
    """Distance of the base's yaw rate from that of an (x, y, yaw rate) command, rad/s."""
    return jnp.abs(planar_velocity(ctx)[2] - ctx.command(command)[2])


def contact_share(ctx: Context, *, sensor: str) -> Float[Array, ""]:
    """Share of a contact sensor's elements that touch something."""
    return jnp.mean(1.0 * ctx.contact(sensor).found)
