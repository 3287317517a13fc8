"""What terms of several kinds are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.config.fields import setting
from ksim.envs.context import Context
from ksim.envs.math import quat_multiply, rotate, rotate_inverse, yaw_of
from ksim.envs.scene import Scene
from ksim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Share:
    """A length by the robot's own measure, so that a task fits robots of any size."""

    of_home_height: float = setting(above=0)  # part of the base's height in the home pose


Length = float | Share


def metres(scene: Scene, length: Length) -> float:
    """A length in metres, as it is or as a share of the robot's.

    Raises:
        ConfigError: a share, and the robot's base is fixed.
    """
    return length.of_home_height * scene.home_height if isinstance(length, Share) else length


def uniform(key: PRNGKeyArray, bounds: Sequence[float] | Array, shape: Sequence[int]) -> Array:
    """Numbers between two bounds, which may be arrays: of the config, or what a curriculum gives."""
    return jax.random.uniform(key, tuple(shape), minval=bounds[0], maxval=bounds[1])


def planar_velocity(ctx: Context) -> Float[Array, " 3"]:
    """How the base moves over the floor, (x forward, y left, yaw rate) in its heading frame, m/s and rad/s.

    The frame in which velocities are commanded: the base's, but for its lean.
    """
    half_yaw = 0.5 * yaw_of(ctx.base_quat)
    zero = jnp.zeros_like(half_yaw)
    heading = jnp.stack([jnp.cos(half_yaw), zero, zero, jnp.sin(half_yaw)])
    yaw_rate = rotate(ctx.base_quat, ctx.base_ang_vel)[2]
    return jnp.concatenate([rotate_inverse(heading, ctx.base_lin_vel_w)[:2], yaw_rate[None]])


def from_heading(ctx: Context, vector: Float[Array, " 2"]) -> Float[Array, " 2"]:
    """A horizontal vector (x forward, y left) of the base's heading frame in the world."""
    yaw = yaw_of(ctx.base_quat)
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    return jnp.stack([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])


def is_asked_to_move(ctx: Context, command: str | None, min_command: float) -> Bool[Array, ""]:
    """Whether a command is longer than `min_command`, in its own units; without a command, always."""
    if command is None:
        return jnp.ones((), bool)
    return jnp.linalg.norm(ctx.command(command)) > min_command


def seen_by_imu(ctx: Context, vector: Float[Array, " 3"]) -> Float[Array, " 3"]:
    """A vector in the base's frame as the robot takes it to be from its inertial sensor: turned into the frame of the
    sensor as it is mounted, and back by the mount of the model. The same, unless an event moves `imu_site`.

    Raises:
        ConfigError: an event moves it, and it sits on a body that moves against the base.
    """
    scene, name = ctx.scene, ctx.scene.robot.imu_site
    if name is None or not ctx.varies("site_quat"):
        return vector
    model, site = scene.model, scene.model.site(name)
    base, body = model.body(scene.robot.base_body).id, int(site.bodyid[0])
    to_body = np.array([1.0, 0.0, 0.0, 0.0])  # from the base's frame
    while body != base:
        if body == 0 or model.body_jntnum[body] > 0:
            raise ConfigError(
                f"the robot's imu_site {name!r} moves against its base, so what it measures is not the base's; "
                "set 'measured: false'"
            )
        mujoco.mju_mulQuat(to_body, model.body_quat[body], to_body.copy())
        body = int(model.body_parentid[body])
    compiled, mounted = (
        quat_multiply(jnp.asarray(to_body, vector.dtype), jnp.asarray(quat, vector.dtype))
        for quat in (model.site_quat[site.id], ctx.model_field("site_quat")[site.id])
    )
    return rotate(compiled, rotate_inverse(mounted, vector))


def per_joint(
    scene: Scene, joints: np.ndarray, value: float | Mapping[str, float], name: str, *, actuated: bool = False
) -> np.ndarray | float:
    """A parameter that is one number, or a number by part or regex of joints; the last one that matches wins.

    Args:
        scene: the task's scene.
        joints: (n,) indices of the joints.
        value: the parameter.
        name: its name, for messages.
        actuated: its patterns are those of actuated joints only.

    Returns:
        The one number as it is, or (n,) a number for each of the joints.

    Raises:
        ConfigError: a pattern matches nothing, or a joint is left without a number.
    """
    if not isinstance(value, Mapping):
        return value
    value_j = np.full(len(scene.joint_names), np.nan)
    for pattern, number in value.items():
        value_j[scene.find_joints(pattern, actuated=actuated)] = number
    missing = [scene.joint_names[i] for i in joints if np.isnan(value_j[i])]
    if missing:
        raise ConfigError(f"{name}: no pattern matches {', '.join(missing)}")
    return value_j[joints]


def contact_points(ctx: Context, sensor: str) -> tuple[Float[Array, "n 3"], Float[Array, "n 3"]]:
    """Where the elements of a contact sensor are, such as feet, and how they move: the mean of each one's geoms.

    Returns:
        Positions, m, and velocities, m/s, of the geoms' centres as points of their bodies; in the world.

    Raises:
        ConfigError: the task has no such contact sensor.
    """
    points, velocities = [], []
    ctx.contact(sensor)  # says so if there is none
    for geoms in geoms_of_each(ctx.scene, sensor):
        bodies = ctx.scene.model.geom_bodyid[geoms]
        points.append(jnp.mean(ctx.geom_xpos[geoms], axis=0))
        velocities.append(jnp.mean(ctx.point_lin_vel(bodies, ctx.geom_xpos[geoms]), axis=0))
    return jnp.stack(points), jnp.stack(velocities)


def home_heights(scene: Scene, sensor: str) -> Float[np.ndarray, " n"]:
    """Heights of the points that `contact_points` gives, in the home pose, m."""
    data = mujoco.MjData(scene.model)
    data.qpos = scene.home_qpos
    mujoco.mj_kinematics(scene.model, data)
    return np.array([data.geom_xpos[geoms, 2].mean() for geoms in geoms_of_each(scene, sensor)])


def lowest_points(ctx: Context, sensor: str) -> Float[Array, " n"]:
    """Height above the ground of the lowest point of each element of a contact sensor, such as a foot, m.

    Of the geoms' true surfaces; of a mesh's and a height field's bounding box.

    Raises:
        ConfigError: the task has no such contact sensor.
    """
    ctx.contact(sensor)  # says so if there is none
    elements = geoms_of_each(ctx.scene, sensor)
    return jnp.stack([jnp.min(jnp.stack([_lowest_point(ctx, geom) for geom in geoms])) for geoms in elements])


def _lowest_point(ctx: Context, geom: int) -> Float[Array, ""]:
    """The height of a convex body's lowest point is that of its centre less its extent along the vertical."""
    model = ctx.scene.model
    size, kind = model.geom_size[geom], mujoco.mjtGeom(model.geom_type[geom])
    up = ctx.geom_xmat[geom].reshape(3, 3)[2]  # the vertical in the geom's frame
    centre = ctx.height_above_ground(ctx.geom_xpos[geom])
    match kind:
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            extent = size[0]
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            extent = size[0] + size[1] * jnp.abs(up[2])
        case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            extent = jnp.linalg.norm(up * size)
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            extent = size[0] * jnp.linalg.norm(up[:2]) + size[1] * jnp.abs(up[2])
        case _:
            box = model.geom_aabb[geom]
            centre = centre + jnp.sum(up * box[:3])
            extent = jnp.sum(jnp.abs(up) * box[3:])
    return centre - extent


def geoms_of_each(scene: Scene, sensor: str) -> list[np.ndarray]:
    """Ids of the geoms of each element of a contact sensor."""
    model = scene.model
    return [np.array([model.sensor(name).objid[0] for name in names]) for names in scene.contacts[sensor].sensors]
