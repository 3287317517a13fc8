"""Event terms: what happens to an env at startup, at a reset, at intervals or at each step.

An event is a function of the context and a random key that returns what it writes, by MuJoCo's names: `qpos`,
`qvel`, `act`, `xfrc_applied` or `qfrc_applied`, `encoder_bias`, or a field of mjModel, which then have a value per
env. Its author never calls forward.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.envs.context import Context
from ksim.envs.managers.timers import draw_steps
from ksim.envs.math import quat_from_euler, quat_multiply
from ksim.envs.traits import term
from ksim.errors import ConfigError
from ksim.mdp import drawings
from ksim.mdp.quantities import uniform
from ksim.robots.parts import Bodies, Joints

Range = tuple[float, float]
Writes = dict[str, Float[Array, "..."]]


class PushMemory(eqx.Module):
    """The last `push` of one env: (2,) change of the base's horizontal velocity, m/s, and env steps since."""

    change: Float[Array, " 2"]
    steps_since: Int[Array, ""]


class ForceMemory(eqx.Module):
    """What an `external_force` applies in one env: (n, 6) force and torque of each body, and env steps that it still
    lasts.
    """

    wrench: Float[Array, "n 6"]
    steps_left: Int[Array, ""]


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
    height_range: Range = (0.0, 0.0),
    xy_range: Range = (0.0, 0.0),
    tilt_range: Range = (0.0, 0.0),
    yaw_range: Range = (0.0, 0.0),
    lin_vel_range: Range = (0.0, 0.0),
    ang_vel_range: Range = (0.0, 0.0),
) -> Writes:
    """Move and turn the base from where it is, with a new velocity; each number uniform in its range.

    Args:
        ctx: the env.
        key: random key.
        height_range: added to the height, m.
        xy_range: added to each horizontal coordinate, m.
        tilt_range: roll and pitch, rad.
        yaw_range: added to the heading, rad; [-3.14159, 3.14159] faces anywhere.
        lin_vel_range: each axis of the linear velocity, world frame, m/s.
        ang_vel_range: each axis of the angular velocity, body frame, rad/s.
    """
    keys = jax.random.split(key, 6)
    roll_pitch = uniform(keys[0], tilt_range, (2,))
    yaw = uniform(keys[1], yaw_range, (1,))
    turn = quat_from_euler(jnp.concatenate([roll_pitch, yaw]).astype(ctx.qpos.dtype))
    pos = ctx.base_pos.at[2].add(uniform(keys[2], height_range, ())).at[:2].add(uniform(keys[5], xy_range, (2,)))
    adr, dof = ctx.base_qpos_adr, ctx.base_dof_adr
    velocity = jnp.concatenate([uniform(keys[3], lin_vel_range, (3,)), uniform(keys[4], ang_vel_range, (3,))])
    pose = jnp.concatenate([pos, quat_multiply(turn, ctx.base_quat)])
    return {"qpos": ctx.qpos.at[adr : adr + 7].set(pose), "qvel": ctx.qvel.at[dof : dof + 6].set(velocity)}


def start_on_patch(
    ctx: Context, key: PRNGKeyArray, *, easiest: float = 0.0, hardest: float = 1.0, spread: float = 0.0
) -> Writes:
    """Move the base from where it is to the middle of a patch of the ground, any of its levels and columns alike.

    Args:
        ctx: the env.
        key: random key.
        easiest: first level that is drawn, as a share of all: 0 is the easiest, 1 the hardest.
        hardest: last level that is drawn; a curriculum may raise it.
        spread: added to each horizontal coordinate, uniform up to it, m.

    Raises:
        ConfigError: there are no patches.
    """
    if ctx.scene.ground is None:
        raise ConfigError("there are no patches to start on; it needs task.scene.terrain=patches")
    levels, columns, _ = ctx.scene.ground.starts.shape
    level_key, column_key, place_key = jax.random.split(key, 3)
    low, high = (jnp.round(jnp.clip(share, 0.0, 1.0) * (levels - 1)).astype(jnp.int32) for share in (easiest, hardest))
    level = jax.random.randint(level_key, (), jnp.minimum(low, high), high + 1)
    column = jax.random.randint(column_key, (), 0, columns)
    start = jnp.asarray(ctx.scene.ground.starts, ctx.qpos.dtype)[level, column]
    start = start.at[:2].add(uniform(place_key, (-spread, spread), (2,)))
    adr = ctx.base_qpos_adr
    return {"qpos": ctx.qpos.at[adr : adr + 3].add(start)}


def reset_joints(
    ctx: Context,
    key: PRNGKeyArray,
    *,
    joints: Joints = ".*",
    position_range: Range = (0.0, 0.0),
    velocity_range: Range = (0.0, 0.0),
) -> Writes:
    """Offset joints from where they are and give them a velocity, uniform in the ranges, within limits.

    Args:
        ctx: the env.
        key: random key.
        joints: joints, by part or regex.
        position_range: added to each position, rad or m.
        velocity_range: new velocities, rad/s or m/s.
    """
    scene = ctx.scene
    ids = scene.find_joints(joints)
    model_ids = scene.joint_ids[ids]
    position_key, velocity_key = jax.random.split(key)
    position = ctx.joint_pos[ids] + uniform(position_key, position_range, (len(ids),))
    lower, upper = scene.model.jnt_range[model_ids].T
    limited = scene.model.jnt_limited[model_ids].astype(bool)
    position = jnp.where(limited, jnp.clip(position, lower, upper), position)
    velocity = uniform(velocity_key, velocity_range, (len(ids),))
    return {
        "qpos": ctx.qpos.at[scene.joint_qpos_adr[ids]].set(position),
        "qvel": ctx.qvel.at[scene.joint_dof_adr[ids]].set(velocity),
    }


@term(draws=drawings.push)
class push(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Change the base's horizontal velocity by a vector of random direction; modes `interval` and `step`.

    Args:
        speed: length of the change, m/s, or the range it is drawn from uniformly.
    """

    speed: float | tuple[float, float]

    def init(self, ctx: Context) -> PushMemory:
        """No push yet."""
        return PushMemory(jnp.zeros(2, ctx.qvel.dtype), jnp.zeros((), jnp.int32))

    def __call__(
        self, ctx: Context, key: PRNGKeyArray, fires: Bool[Array, ""], last: PushMemory
    ) -> tuple[Writes, PushMemory]:
        """A push where the event fires."""
        direction_key, speed_key = jax.random.split(key)
        angle = jax.random.uniform(direction_key, (), ctx.qvel.dtype, 0.0, 2.0 * jnp.pi)
        speed = uniform(speed_key, jnp.broadcast_to(jnp.asarray(self.speed), 2), ())
        change = speed * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        dof = ctx.base_dof_adr
        qvel = jnp.where(fires, ctx.qvel.at[dof : dof + 2].add(change), ctx.qvel)
        memory = PushMemory(jnp.where(fires, change, last.change), jnp.where(fires, 0, last.steps_since + 1))
        return {"qvel": qvel}, memory


@term(draws=drawings.external_force)
class external_force(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Push bodies with a force and a torque that last for a while; modes `interval` and `step`.

    Args:
        bodies: bodies, by part or regex; each gets draws of its own, at its centre of mass.
        duration_range_s: how long it lasts, s, rounded to env steps and at least one.
        force_range: each axis of the force, world frame, N.
        torque_range: each axis of the torque, world frame, N m.
        impulse: the ranges are of the whole impulse, N s and N m s, whatever its duration.
    """

    bodies: Bodies
    duration_range_s: Range
    force_range: Range = (0.0, 0.0)
    torque_range: Range = (0.0, 0.0)
    impulse: bool = False

    def init(self, ctx: Context) -> ForceMemory:
        """No push yet."""
        count = len(ctx.scene.find("body", self.bodies))
        return ForceMemory(jnp.zeros((count, 6), ctx.qpos.dtype), jnp.zeros((), jnp.int32))

    def __call__(
        self, ctx: Context, key: PRNGKeyArray, fires: Bool[Array, ""], push: ForceMemory
    ) -> tuple[Writes, ForceMemory]:
        """A new push where the event fires, else what is left of the last."""
        force_key, torque_key, time_key = jax.random.split(key, 3)
        shape = (len(push.wrench), 3)
        wrench = jnp.concatenate(
            [uniform(force_key, self.force_range, shape), uniform(torque_key, self.torque_range, shape)], axis=1
        )
        steps = draw_steps(time_key, self.duration_range_s, ctx.step_dt)
        if self.impulse:
            wrench = wrench / (steps * ctx.step_dt)
        steps_left = jnp.where(fires, steps, push.steps_left)
        wrench = jnp.where(fires, wrench, jnp.where(steps_left > 0, push.wrench, 0.0))
        ids = ctx.scene.find("body", self.bodies)
        # Other events may push the same bodies: only its own part is taken away.
        applied = ctx.model_field("xfrc_applied").at[ids].add(wrench - push.wrench)
        return {"xfrc_applied": applied}, ForceMemory(wrench, jnp.maximum(steps_left - 1, 0))
