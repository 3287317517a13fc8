"""Reward terms: one small function of one env at one instant, larger is better; the weight gives the sign."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.context import Context


def alive(ctx: Context) -> Float[Array, ""]:
    """1 while the episode goes on, 0 in the step that terminates it."""
    return 1.0 - ctx.terminated


def terminated(ctx: Context) -> Float[Array, ""]:
    """1 in the step that terminates the episode; a penalty with a negative weight."""
    return 1.0 * ctx.terminated


def upright(ctx: Context, *, std: float = 0.3) -> Float[Array, ""]:
    """How well the base points up, in (0, 1]: exp(-|g_xy|^2 / std^2), g the gravity direction in the base frame."""
    return jnp.exp(-jnp.sum(jnp.square(ctx.projected_gravity[:2])) / std**2)


def base_height(ctx: Context, *, target: float, std: float = 0.1) -> Float[Array, ""]:
    """How close the base is to a height, in (0, 1]: exp(-(z - target)^2 / std^2), m."""
    return jnp.exp(-jnp.square(ctx.base_pos[2] - target) / std**2)


def still(ctx: Context, *, std: float = 0.3) -> Float[Array, ""]:
    """How slowly the base moves over the floor, in (0, 1]: exp(-|v_xy| / std), m/s; steep at rest, against creeping."""
    return jnp.exp(-jnp.linalg.norm(ctx.base_lin_vel_w[:2]) / std)


def capture_point(ctx: Context, *, feet: str, std: float = 0.1) -> Float[Array, ""]:
    """How close the capture point is to the middle of the feet, in (0, 1]: exp(-|xi - p|^2 / std^2), m.

    The capture point xi = c + v / omega is where a robot, seen as a linear inverted pendulum, must put its centre
    of pressure to come to rest (Pratt et al. 2006, https://doi.org/10.1109/ICHR.2006.321385); omega = sqrt(g / h).
    c is the robot's centre of mass at height h above the feet, v the base's velocity.

    Args:
        ctx: the env.
        feet: regex of the bodies of the feet; p is the mean of their origins, the ankles.
        std: distance of the reward's fall, m.
    """
    scene = ctx.scene
    com = ctx.subtree_com[scene.model.body(scene.robot.base_body).id]
    ankles = jnp.mean(ctx.xpos[scene.find("body", feet)], axis=0)
    gravity = -float(scene.model.opt.gravity[2])
    omega = jnp.sqrt(gravity / jnp.maximum(com[2] - ankles[2], 0.1))
    error = com[:2] + ctx.base_lin_vel_w[:2] / omega - ankles[:2]
    return jnp.exp(-jnp.sum(jnp.square(error)) / std**2)


def bodies_still(ctx: Context, *, bodies: str, std: float = 0.3) -> Float[Array, ""]:
    """How still bodies are, such as feet that should stay where they are, in (0, 1]: mean of exp(-|v| / std), m/s."""
    velocity = ctx.body_lin_vel(ctx.scene.find("body", bodies))
    return jnp.mean(jnp.exp(-jnp.linalg.norm(velocity, axis=-1) / std))


def base_ang_vel_xy(ctx: Context) -> Float[Array, ""]:
    """Squared roll and pitch rate of the base, rad^2/s^2."""
    return jnp.sum(jnp.square(ctx.base_ang_vel[:2]))


def base_yaw_rate(ctx: Context) -> Float[Array, ""]:
    """Squared yaw rate of the base, rad^2/s^2."""
    return jnp.square(ctx.base_ang_vel[2])


def posture(ctx: Context, *, joints: str = ".*", std: float = 0.3) -> Float[Array, ""]:
    """How close joints are to the home pose, in (0, 1]: exp(-mean((q - q_home)^2) / std^2), rad."""
    error = ctx.joint_pos_rel[ctx.scene.find_joints(joints)]
    return jnp.exp(-jnp.mean(jnp.square(error)) / std**2)


def joint_deviation(ctx: Context, *, joints: str = ".*") -> Float[Array, ""]:
    """Sum of squared distances of joints from the home pose, rad^2."""
    return jnp.sum(jnp.square(ctx.joint_pos_rel[ctx.scene.find_joints(joints)]))


def joint_vel(ctx: Context, *, joints: str = ".*") -> Float[Array, ""]:
    """Sum of squared joint velocities, rad^2/s^2."""
    return jnp.sum(jnp.square(ctx.joint_vel[ctx.scene.find_joints(joints)]))


def action_rate(ctx: Context) -> Float[Array, ""]:
    """Sum of squared changes of the action since the last env step, action units."""
    return jnp.sum(jnp.square(ctx.action - ctx.prev_action))


def action_size(ctx: Context) -> Float[Array, ""]:
    """Sum of squared actions, action units."""
    return jnp.sum(jnp.square(ctx.action))


def torque(ctx: Context, *, joints: str = ".*") -> Float[Array, ""]:
    """Mean of squared actuator torques as parts of their limits, in [0, 1]."""
    ids = ctx.scene.find_joints(joints, actuated=True)
    return jnp.mean(jnp.square(ctx.actuator_force[ids] / ctx.scene.robot.torque_limit_u[ids]))


def joint_near(ctx: Context, *, joints: str, target: float = 0.0, std: float = 1.0) -> Float[Array, ""]:
    """How close joints are to a position, in (0, 1]: exp(-mean((q - target)^2) / std^2), rad or m."""
    error = ctx.joint_pos[ctx.scene.find_joints(joints)] - target
    return jnp.exp(-jnp.mean(jnp.square(error)) / std**2)


def pole_upright(ctx: Context, *, joint: str) -> Float[Array, ""]:
    """How upright a pole stands on its hinge, in [0, 1]: (1 + cos(angle)) / 2."""
    angle = ctx.joint_pos[ctx.scene.find_joints(joint)]
    return jnp.mean(1.0 + jnp.cos(angle)) / 2.0
