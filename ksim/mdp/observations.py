"""Observation terms: what a policy or a critic sees of one env."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ksim.envs.context import Context
from ksim.envs.math import yaw_of
from ksim.envs.mirror import SignedPermutation
from ksim.envs.scene import Scene
from ksim.envs.traits import term
from ksim.errors import ConfigError
from ksim.mdp.quantities import lowest_points, seen_by_imu
from ksim.robots.parts import Bodies, Joints

Range = tuple[float, float]


@term(mirrors_as="polar")
def base_lin_vel(ctx: Context) -> Float[Array, " 3"]:
    """Linear velocity of the base in its own frame, m/s. A robot does not measure it: give it to the critic."""
    return ctx.base_lin_vel


@term(mirrors_as="axial")
def base_ang_vel(ctx: Context, *, measured: bool = True) -> Float[Array, " 3"]:
    """Angular velocity of the base in its own frame, rad/s; as the inertial sensor measures it, or as it is."""
    return seen_by_imu(ctx, ctx.base_ang_vel) if measured else ctx.base_ang_vel


@term(mirrors_as="polar")
def projected_gravity(ctx: Context, *, measured: bool = True) -> Float[Array, " 3"]:
    """Direction of gravity in the base's frame, (0, 0, -1) when upright; as the inertial sensor measures it, or as it
    is.
    """
    return seen_by_imu(ctx, ctx.projected_gravity) if measured else ctx.projected_gravity


@term(mirrors_as="even")
def base_height(ctx: Context) -> Float[Array, " 1"]:
    """Height of the base above the ground, m."""
    return ctx.height_above_ground(ctx.base_pos)[None]


@term(mirrors_as="joints")
def joint_pos(ctx: Context, *, joints: Joints = ".*", measured: bool = True) -> Float[Array, " n"]:
    """Positions of the joints relative to the home pose, rad or m; as the encoders measure them, or as they are."""
    position = ctx.joint_pos_rel + ctx.encoder_bias if measured and ctx.has_encoder_bias else ctx.joint_pos_rel
    return position[ctx.scene.find_joints(joints)]


@term(mirrors_as="joints")
def joint_vel(ctx: Context, *, joints: Joints = ".*") -> Float[Array, " n"]:
    """Velocities of the joints, rad/s or m/s."""
    return ctx.joint_vel[ctx.scene.find_joints(joints)]


def joint_pos_cos_sin(ctx: Context, *, joints: Joints = ".*") -> Float[Array, " 2n"]:
    """Cosines, then sines of the joints' angles, for joints that turn without a limit."""
    angle = ctx.joint_pos[ctx.scene.find_joints(joints)]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


@term(mirrors_as="action")
def last_action(ctx: Context) -> Float[Array, " a"]:
    """The action that led here, as the policy gave it; zeros after a reset."""
    return ctx.action


@term(mirrors_as="command")
def command(ctx: Context, *, name: str) -> Float[Array, " n"]:
    """The present value of a command of the task."""
    return ctx.command(name)


@term(mirrors_as="even")
def command_time_left(ctx: Context, *, name: str) -> Float[Array, " 1"]:
    """Seconds until a command is drawn anew. A robot does not know them: give them to the critic."""
    return ctx.command_time_left(name)[None]


@term(mirrors_as="joints", actuated=True)
def actuator_force(ctx: Context, *, joints: Joints = ".*") -> Float[Array, " n"]:
    """Torque or force of the joints' actuators in the last substep, N m or N."""
    return ctx.actuator_force[ctx.scene.find_joints(joints, actuated=True)]


def sensor(ctx: Context, *, name: str) -> Float[Array, " n"]:
    """Values of one sensor of the model, in MuJoCo's units."""
    return ctx.sensor(name)


@term(mirrors_as="contacts")
def contacts(ctx: Context, *, sensor: str) -> Float[Array, " n"]:
    """1 for each element of a contact sensor that touches something, else 0."""
    return 1.0 * ctx.contact(sensor).found


@term(mirrors_as="contacts")
def contact_force(ctx: Context, *, sensor: str) -> Float[Array, " n"]:
    """Normal force on each element of a contact sensor in the last substep, N."""
    return ctx.contact(sensor).force


@term(mirrors_as="contacts")
def air_time(ctx: Context, *, sensor: str) -> Float[Array, " n"]:
    """For how long each element of a contact sensor has been in the air, s; 0 in contact. It needs `track_time`."""
    return ctx.contact(sensor).air_time


@term(mirrors_as="contacts")
def clearance(ctx: Context, *, sensor: str) -> Float[Array, " n"]:
    """Height of the lowest point of each element of a contact sensor above the ground, m."""
    return lowest_points(ctx, sensor)


@term(mirrors_as="bodies")
def heights(ctx: Context, *, bodies: Bodies) -> Float[Array, " n"]:
    """Heights of the origins of bodies above the ground, m, in the order of the model.

    Args:
        ctx: the env.
        bodies: bodies, by part or regex.
    """
    return ctx.height_above_ground(ctx.xpos[ctx.scene.find("body", bodies)])


def _mirrored_scan(
    scene: Scene, *, forward: Range, width: float, spacing: float, limit: float | None = None
) -> SignedPermutation:
    del scene, limit
    columns = len(_grid_line(-0.5 * width, 0.5 * width, spacing))
    index = np.arange(len(_grid_line(*forward, spacing)) * columns).reshape(-1, columns)[:, ::-1].ravel()
    return SignedPermutation(index, np.ones(len(index), np.float32))


@term(mirrors_as=_mirrored_scan)
def ground_scan(
    ctx: Context, *, forward: Range = (-0.4, 0.8), width: float = 0.8, spacing: float = 0.2, limit: float | None = 0.5
) -> Float[Array, " n"]:
    """Heights of the ground around the robot, above where it would stand in its home pose, m.

    The points form a grid in the heading frame: rows from back to front, each from right to left. On a flat floor all
    are the home pose's height less the base's.

    Args:
        ctx: the env.
        forward: where the grid begins and ends along the heading, m.
        width: of the grid, m.
        spacing: of the grid, m; it must go into both evenly.
        limit: values are cut off there, m; null: they are not.
    """
    x, y = np.meshgrid(_grid_line(*forward, spacing), _grid_line(-0.5 * width, 0.5 * width, spacing), indexing="ij")
    yaw = yaw_of(ctx.base_quat)
    ahead = jnp.stack([jnp.cos(yaw), jnp.sin(yaw)])
    left = jnp.stack([-ahead[1], ahead[0]])
    points = ctx.base_pos[:2] + x.reshape(-1, 1) * ahead + y.reshape(-1, 1) * left
    sole = ctx.base_pos[2] - ctx.scene.home_height
    heights = ctx.ground_height(points) - sole
    return heights if limit is None else jnp.clip(heights, -limit, limit)


def _grid_line(first: float, last: float, spacing: float) -> np.ndarray:
    """Points from first to last, both included.

    Raises:
        ConfigError: the spacing does not go into them.
    """
    count = round((last - first) / spacing) if spacing > 0 else 0
    if count < 1 or abs(first + count * spacing - last) > 1e-6:
        raise ConfigError(f"a spacing of {spacing} does not go evenly from {first:g} to {last:g}")
    return np.linspace(first, last, count + 1)


@term(mirrors_as="phase")
def phase(ctx: Context, *, period_s: float) -> Float[Array, " 2"]:
    """A clock that starts with the episode, for gaits: cosine and sine of 2 pi t / period."""
    angle = 2.0 * jnp.pi * ctx.time_s / period_s
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])
