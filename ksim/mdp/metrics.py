"""Metric terms: numbers that are logged and not optimized."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ksim.envs.context import Context
from ksim.envs.managers.timers import nearest_steps
from ksim.mdp.quantities import contact_points, lowest_points, planar_velocity


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


def flight(ctx: Context, *, sensor: str) -> Float[Array, ""]:
    """1 while no element of a contact sensor, such as a foot, touches anything, else 0; its mean is a share of time."""
    return 1.0 - jnp.any(ctx.contact(sensor).found)


def stance_slip(ctx: Context, *, sensor: str) -> Float[Array, ""]:
    """Mean horizontal speed of the elements of a contact sensor that touch, m/s; 0 while none does."""
    _, velocity = contact_points(ctx, sensor)
    found = ctx.contact(sensor).found
    speed = jnp.linalg.norm(velocity[:, :2], axis=-1)
    return jnp.sum(jnp.where(found, speed, 0.0)) / jnp.maximum(jnp.sum(found), 1)


# Means of what happens now and then, so far in the episode: `reduce: last` makes that the episode's.


class Mean(eqx.Module):
    """A mean that grows: sum and number of the values so far."""

    total: Float[Array, ""]
    count: Int[Array, ""]

    @classmethod
    def zero(cls, ctx: Context) -> "Mean":
        """Of no values."""
        return cls(jnp.zeros((), ctx.qpos.dtype), jnp.zeros((), jnp.int32))

    def add(self, value: Float[Array, " n"], where: Bool[Array, " n"]) -> "Mean":
        """With those of some values that are true in a mask."""
        return Mean(self.total + jnp.sum(jnp.where(where, value, 0.0)), self.count + jnp.sum(where))

    @property
    def value(self) -> Float[Array, ""]:
        """The mean; 0 of no values."""
        return self.total / jnp.maximum(self.count, 1)


class Swings(eqx.Module):
    """What `swing_height` remembers: (n,) peak of each foot's present swing, m, and the mean of those that are over."""

    peak: Float[Array, " n"]
    over: Mean


class swing_height(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Mean over the swings so far of the peak height of the foot's lowest point, m; use `reduce: last`.

    A swing is from when a foot leaves the ground until it lands, however short: feet that patter or drag lower it.

    Args:
        sensor: name of a contact sensor with an element for each foot.
    """

    sensor: str

    def init(self, ctx: Context) -> Swings:
        """No swing yet."""
        return Swings(jnp.zeros_like(lowest_points(ctx, self.sensor)), Mean.zero(ctx))

    def __call__(self, ctx: Context, swings: Swings) -> tuple[Float[Array, ""], Swings]:
        """One env step later."""
        found = ctx.contact(self.sensor).found
        over = swings.over.add(swings.peak, found & (swings.peak > 0.0))
        peak = jnp.where(found, 0.0, jnp.maximum(swings.peak, lowest_points(ctx, self.sensor)))
        return over.value, Swings(peak, over)


class Cycle(eqx.Module):
    """What metrics of whole cycles remember.

    Attributes:
        error: (3,) sum of the velocity's errors (x, y, yaw rate) in this cycle.
        steps: env steps of this cycle so far.
        over: mean of the cycles that are over.
    """

    error: Float[Array, " 3"]
    steps: Int[Array, ""]
    over: Mean


class cycle_lin_vel_error(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Distance of the (x, y) velocity, averaged over a gait's cycle, from the command, averaged likewise, m/s: the mean
    of the cycles so far, one after the other; use `reduce: last`.

    Both in the base's heading frame. The sway of each step, which a good walk has, too, does not count.

    Args:
        command: name of an (x, y, yaw rate) command.
        cycle_s: length of a cycle, s.
    """

    command: str
    cycle_s: float = 0.8

    def init(self, ctx: Context) -> Cycle:
        """No cycle yet."""
        return _no_cycle(ctx)

    def __call__(self, ctx: Context, cycle: Cycle) -> tuple[Float[Array, ""], Cycle]:
        """One env step later."""
        return _advance(ctx, cycle, self.command, self.cycle_s, slice(0, 2))


class cycle_yaw_rate_error(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Likewise, distance of the yaw rate from that of the command, rad/s.

    Args:
        command: name of an (x, y, yaw rate) command.
        cycle_s: length of a cycle, s.
    """

    command: str
    cycle_s: float = 0.8

    def init(self, ctx: Context) -> Cycle:
        """No cycle yet."""
        return _no_cycle(ctx)

    def __call__(self, ctx: Context, cycle: Cycle) -> tuple[Float[Array, ""], Cycle]:
        """One env step later."""
        return _advance(ctx, cycle, self.command, self.cycle_s, slice(2, 3))


def _no_cycle(ctx: Context) -> Cycle:
    return Cycle(jnp.zeros(3, ctx.qpos.dtype), jnp.zeros((), jnp.int32), Mean.zero(ctx))


def _advance(ctx: Context, cycle: Cycle, command: str, cycle_s: float, axes: slice) -> tuple[Float[Array, ""], Cycle]:
    error, steps = cycle.error + planar_velocity(ctx) - ctx.command(command), cycle.steps + 1
    is_over = steps >= nearest_steps(cycle_s, ctx.step_dt)
    over = cycle.over.add(jnp.linalg.norm(error[axes] / steps)[None], is_over[None])
    return over.value, Cycle(jnp.where(is_over, 0.0, error), jnp.where(is_over, 0, steps), over)
