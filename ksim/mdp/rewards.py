"""Reward terms: one small function of one env at one instant, larger is better; the weight gives the sign."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ksim.envs import mirror
from ksim.envs.context import Context
from ksim.envs.traits import term
from ksim.errors import ConfigError
from ksim.mdp.gait import swing_share
from ksim.mdp.quantities import (
    Length,
    contact_points,
    from_heading,
    home_heights,
    is_asked_to_move,
    metres,
    per_joint,
    planar_velocity,
)
from ksim.robots.parts import Bodies, Joints

Std = float | dict[str, float]

# Episodes


def alive(ctx: Context) -> Float[Array, ""]:
    """1 while the episode goes on, 0 in the step that terminates it."""
    return 1.0 - ctx.terminated


def terminated(ctx: Context) -> Float[Array, ""]:
    """1 in the step that terminates the episode; a penalty with a negative weight."""
    return 1.0 * ctx.terminated


# The base


def track_lin_vel(ctx: Context, *, command: str, std: float = 0.5) -> Float[Array, ""]:
    """How well the base follows a commanded (x, y) velocity, in (0, 1]: exp(-|v_xy - command_xy|^2 / std^2), m/s.

    In the base's heading frame, as `commands.uniform_velocity` gives it.
    """
    error = planar_velocity(ctx)[:2] - ctx.command(command)[:2]
    return jnp.exp(-jnp.sum(jnp.square(error)) / std**2)


def track_ang_vel(ctx: Context, *, command: str, std: float = 0.5) -> Float[Array, ""]:
    """How well the base follows the yaw rate of an (x, y, yaw rate) command, in (0, 1]: exp(-e^2 / std^2), rad/s."""
    error = planar_velocity(ctx)[2] - ctx.command(command)[2]
    return jnp.exp(-jnp.square(error) / std**2)


def upright(ctx: Context, *, std: float = 0.3) -> Float[Array, ""]:
    """How well the base points up, in (0, 1]: exp(-|g_xy|^2 / std^2), g the gravity direction in the base frame."""
    return jnp.exp(-jnp.sum(jnp.square(ctx.projected_gravity[:2])) / std**2)


def orientation(ctx: Context) -> Float[Array, ""]:
    """Squared sine of the base's lean, in [0, 1]: |g_xy|^2, g the gravity direction in the base frame."""
    return jnp.sum(jnp.square(ctx.projected_gravity[:2]))


def base_height(ctx: Context, *, target: Length, std: Length = 0.1) -> Float[Array, ""]:
    """How close the base is to a height above the ground, in (0, 1]: exp(-(z - target)^2 / std^2), m."""
    error = ctx.height_above_ground(ctx.base_pos) - metres(ctx.scene, target)
    return jnp.exp(-jnp.square(error) / metres(ctx.scene, std) ** 2)


def still(ctx: Context, *, std: float = 0.3) -> Float[Array, ""]:
    """How slowly the base moves over the floor, in (0, 1]: exp(-|v_xy| / std), m/s; steep at rest, against creeping."""
    return jnp.exp(-jnp.linalg.norm(ctx.base_lin_vel_w[:2]) / std)


def capture_point(ctx: Context, *, feet: Bodies, std: Length = 0.1, command: str | None = None) -> Float[Array, ""]:
    """How close the capture point is to the middle of the feet, in (0, 1]: exp(-|xi - p|^2 / std^2), m.

    The capture point xi = c + v / omega is where a robot, seen as a linear inverted pendulum, must put its centre
    of pressure to come to rest (Pratt et al. 2006, https://doi.org/10.1109/ICHR.2006.321385); omega = sqrt(g / h).
    c is the robot's centre of mass at height h above the feet, v the base's velocity.

    Args:
        ctx: the env.
        feet: bodies of the feet, by part or regex; p is the mean of their origins, the ankles.
        std: distance of the reward's fall, m.
        command: name of an (x, y, yaw rate) command: v is then the velocity beyond the commanded one.
    """
    scene = ctx.scene
    velocity = ctx.base_lin_vel_w[:2]
    if command is not None:
        velocity = velocity - from_heading(ctx, ctx.command(command)[:2])
    com = ctx.subtree_com[scene.model.body(scene.robot.base_body).id]
    ankles = jnp.mean(ctx.xpos[scene.find("body", feet)], axis=0)
    gravity = -float(scene.model.opt.gravity[2])
    omega = jnp.sqrt(gravity / jnp.maximum(com[2] - ankles[2], 0.1))
    error = com[:2] + velocity / omega - ankles[:2]
    return jnp.exp(-jnp.sum(jnp.square(error)) / metres(scene, std) ** 2)


def bodies_still(ctx: Context, *, bodies: Bodies, std: float = 0.3) -> Float[Array, ""]:
    """How still bodies are, such as feet that should stay where they are, in (0, 1]: mean of exp(-|v| / std), m/s."""
    velocity = ctx.body_lin_vel(ctx.scene.find("body", bodies))
    return jnp.mean(jnp.exp(-jnp.linalg.norm(velocity, axis=-1) / std))


def base_lin_vel_z(ctx: Context) -> Float[Array, ""]:
    """Squared vertical velocity of the base in its own frame, m^2/s^2."""
    return jnp.square(ctx.base_lin_vel[2])


def base_ang_vel_xy(ctx: Context) -> Float[Array, ""]:
    """Squared roll and pitch rate of the base, rad^2/s^2."""
    return jnp.sum(jnp.square(ctx.base_ang_vel[:2]))


def base_yaw_rate(ctx: Context) -> Float[Array, ""]:
    """Squared yaw rate of the base, rad^2/s^2."""
    return jnp.square(ctx.base_ang_vel[2])


# Joints and actions


def posture(ctx: Context, *, joints: Joints = ".*", std: Std = 0.3) -> Float[Array, ""]:
    """How close joints are to the home pose, in (0, 1]: exp(-mean((q - q_home)^2 / std^2)), rad.

    Args:
        ctx: the env.
        joints: joints, by part or regex.
        std: one number, or one by part or regex of joints.
    """
    ids = ctx.scene.find_joints(joints)
    std_n = per_joint(ctx.scene, ids, std, "std")
    if isinstance(std_n, np.ndarray) and (std_n <= 0).any():
        raise ConfigError("std: a standard deviation must be positive")
    return jnp.exp(-jnp.mean(jnp.square(ctx.joint_pos_rel[ids] / std_n)))


def stand_still(ctx: Context, *, command: str, joints: Joints = ".*", max_command: float = 0.1) -> Float[Array, ""]:
    """Sum of the joints' distances from the home pose while a command asks to stand, rad; else 0.

    Args:
        ctx: the env.
        command: name of the command; one no longer than `max_command`, in its own units, asks to stand.
        joints: joints, by part or regex.
        max_command: see `command`.
    """
    away = jnp.sum(jnp.abs(ctx.joint_pos_rel[ctx.scene.find_joints(joints)]))
    return jnp.where(is_asked_to_move(ctx, command, max_command), 0.0, away)


def asymmetry(ctx: Context, *, joints: Joints = ".*") -> Float[Array, ""]:
    """Mean squared difference between the pose and its mirror image, left to right, rad^2.

    Raises:
        ConfigError: the robot has no mirror map, or the joints do not mirror into each other.
    """
    ids = ctx.scene.find_joints(joints)
    mirrored = mirror.of_joints(ctx.scene, ids)
    if mirrored is None:
        raise ConfigError(f"joints: those of {ctx.scene.robot.name!r} do not mirror into each other")
    position = ctx.joint_pos_rel[ids]
    return jnp.mean(jnp.square(position - mirrored(position)))


def joint_deviation(ctx: Context, *, joints: Joints = ".*") -> Float[Array, ""]:
    """Sum of squared distances of joints from the home pose, rad^2."""
    return jnp.sum(jnp.square(ctx.joint_pos_rel[ctx.scene.find_joints(joints)]))


def joint_vel(ctx: Context, *, joints: Joints = ".*") -> Float[Array, ""]:
    """Sum of squared joint velocities, rad^2/s^2."""
    return jnp.sum(jnp.square(ctx.joint_vel[ctx.scene.find_joints(joints)]))


def joint_acc(ctx: Context, *, joints: Joints = ".*") -> Float[Array, ""]:
    """Sum of squared joint accelerations in the last substep, rad^2/s^4."""
    ids = ctx.scene.find_joints(joints)
    return jnp.sum(jnp.square(ctx.qacc[ctx.scene.joint_dof_adr[ids]]))


def joint_limits(ctx: Context, *, joints: Joints = ".*", soft_factor: float = 0.9) -> Float[Array, ""]:
    """How far joints are beyond their soft limits, summed, rad; joints without a limit do not count.

    Args:
        ctx: the env.
        joints: joints, by part or regex.
        soft_factor: part of each joint's range, about its middle, that costs nothing.
    """
    ids = ctx.scene.find_joints(joints)
    model, joint_ids = ctx.scene.model, ctx.scene.joint_ids[ids]
    lower, upper = model.jnt_range[joint_ids].T
    beyond = jnp.abs(ctx.joint_pos[ids] - (lower + upper) / 2) - soft_factor * (upper - lower) / 2
    return jnp.sum(jnp.where(model.jnt_limited[joint_ids].astype(bool), jnp.maximum(beyond, 0.0), 0.0))


def action_rate(ctx: Context) -> Float[Array, ""]:
    """Sum of squared changes of the action since the last env step, action units."""
    return jnp.sum(jnp.square(ctx.action - ctx.prev_action))


class action_rate_rate(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Sum of squared second differences of the action, a_t - 2 a_(t-1) + a_(t-2), action units; all 0 at a reset."""

    def init(self, ctx: Context) -> Float[Array, " a"]:
        """The last-but-two action."""
        return jnp.zeros_like(ctx.action)

    def __call__(self, ctx: Context, before: Float[Array, " a"]) -> tuple[Float[Array, ""], Float[Array, " a"]]:
        """The value, and what the last-but-two action of the next step will be."""
        return jnp.sum(jnp.square(ctx.action - 2.0 * ctx.prev_action + before)), ctx.prev_action


def action_size(ctx: Context) -> Float[Array, ""]:
    """Sum of squared actions, action units."""
    return jnp.sum(jnp.square(ctx.action))


@term(actuated=True)
def torque(ctx: Context, *, joints: Joints = ".*") -> Float[Array, ""]:
    """Mean of squared actuator torques as parts of their limits, in [0, 1]."""
    ids = ctx.scene.find_joints(joints, actuated=True)
    return jnp.mean(jnp.square(ctx.actuator_force[ids] / ctx.scene.robot.torque_limit_u[ids]))


@term(actuated=True)
def power(ctx: Context, *, joints: Joints = ".*") -> Float[Array, ""]:
    """Mechanical power that actuators give and take: sum of |torque of the last substep x velocity after it|, W."""
    ids = ctx.scene.find_joints(joints, actuated=True)
    return jnp.sum(jnp.abs(ctx.actuator_force[ids] * ctx.joint_vel[ids]))


def joint_near(ctx: Context, *, joints: Joints, target: float = 0.0, std: float = 1.0) -> Float[Array, ""]:
    """How close joints are to a position, in (0, 1]: exp(-mean((q - target)^2) / std^2), rad or m."""
    error = ctx.joint_pos[ctx.scene.find_joints(joints)] - target
    return jnp.exp(-jnp.mean(jnp.square(error)) / std**2)


def pole_upright(ctx: Context, *, joint: Joints) -> Float[Array, ""]:
    """How upright a pole stands on its hinge, in [0, 1]: (1 + cos(angle)) / 2."""
    angle = ctx.joint_pos[ctx.scene.find_joints(joint)]
    return jnp.mean(1.0 + jnp.cos(angle)) / 2.0


# Feet: the elements of a contact sensor


def feet_air_time(
    ctx: Context, *, sensor: str, threshold_s: float = 0.4, command: str | None = None, min_command: float = 0.1
) -> Float[Array, ""]:
    """When feet land: for how much longer than `threshold_s` they were in the air, summed, s; negative for a patter.

    Args:
        ctx: the env.
        sensor: name of a contact sensor with `track_time`.
        threshold_s: a step that earns nothing.
        command: name of a command; nothing is earned while it is no longer than `min_command`. None: always.
        min_command: see `command`.
    """
    feet = ctx.contact(sensor)
    earned = jnp.sum(jnp.where(feet.first_contact, feet.last_air_time - threshold_s, 0.0))
    return jnp.where(is_asked_to_move(ctx, command, min_command), earned, 0.0)


def feet_slip(ctx: Context, *, sensor: str) -> Float[Array, ""]:
    """Sum of squared horizontal speeds of the feet that touch, m^2/s^2."""
    _, velocity = contact_points(ctx, sensor)
    speed2 = jnp.sum(jnp.square(velocity[:, :2]), axis=-1)
    return jnp.sum(jnp.where(ctx.contact(sensor).found, speed2, 0.0))


def feet_clearance(
    ctx: Context, *, sensor: str, height: Length, command: str | None = None, min_command: float = 0.1
) -> Float[Array, ""]:
    """How far feet are from a height above the ground while they swing: sum of |z - height| |v_xy|, m^2/s.

    Args:
        ctx: the env.
        sensor: name of a contact sensor.
        height: of the middle of a foot's geoms, m.
        command: name of a command; 0 while it is no longer than `min_command`. None: always.
        min_command: see `command`.
    """
    point, velocity = contact_points(ctx, sensor)
    cost = jnp.sum(
        jnp.abs(ctx.height_above_ground(point) - metres(ctx.scene, height)) * jnp.linalg.norm(velocity[:, :2], axis=-1)
    )
    return jnp.where(is_asked_to_move(ctx, command, min_command), cost, 0.0)


def contact_force(ctx: Context, *, sensor: str, limit: float) -> Float[Array, ""]:
    """By how much the peak forces of a contact sensor's elements exceed a limit in this env step, summed, N."""
    return jnp.sum(jnp.maximum(ctx.contact(sensor).peak_force - limit, 0.0))


def feet_swing(
    ctx: Context,
    *,
    sensor: str,
    clock: str,
    height: Length,
    stance: float = 0.5,
    offsets: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
    """How well feet rise and fall with a gait's clock, from -1 to 1: 1 - sum(|z - target|) / height.

    z is the height of the middle of a foot's geoms above the ground, less that in the home pose, and the target
    `height` times `gait.swing_share`. Linear, so that a foot that hardly leaves the ground already earns by it.

    Args:
        ctx: the env.
        sensor: name of a contact sensor, an element for each foot.
        clock: name of a command `gait_clock`; while it is stopped, all feet are due on the ground.
        height: in the middle of a swing, m.
        stance: share of the period in which a foot is on the ground.
        offsets: by how much each foot, in the sensor's order, is ahead of the clock, in periods; None: evenly spread.
    """
    point, _ = contact_points(ctx, sensor)
    top = metres(ctx.scene, height)
    z = ctx.height_above_ground(point) - home_heights(ctx.scene, sensor)
    target = top * swing_share(ctx, clock, len(z), stance=stance, offsets=offsets)
    return jnp.maximum(1.0 - jnp.sum(jnp.abs(z - target)) / top, -1.0)


def feet_on_time(
    ctx: Context, *, sensor: str, clock: str, stance: float = 0.5, offsets: tuple[float, ...] | None = None
) -> Float[Array, ""]:
    """Share of the feet that touch the ground when a gait's clock says so and are in the air when it says that.

    Args:
        ctx: the env.
        sensor: name of a contact sensor, an element for each foot.
        clock, stance, offsets: as for `feet_swing`.
    """
    found = ctx.contact(sensor).found
    is_due_up = swing_share(ctx, clock, len(found), stance=stance, offsets=offsets) > 0.0
    return jnp.mean(1.0 * (found != is_due_up))
