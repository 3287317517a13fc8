"""Domain randomization: events that give each env its own friction, masses, gains, sensor mounts, ...

Each starts from the value in the compiled model, whatever an earlier draw left in the env, so repeats do not drift.
They fire at startup, at resets or at intervals, as the event's mode says. What a changed mass or inertia implies for
other constants of the model, the env recomputes.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.context import Context
from ksim.envs.math import quat_from_euler, quat_multiply, rotate
from ksim.envs.traits import term
from ksim.errors import ConfigError
from ksim.mdp.contact_friction import check_friction_counts
from ksim.mdp.events import Writes
from ksim.mdp.quantities import uniform
from ksim.robots.parts import Bodies, Geoms, Joints, Sites

Range = tuple[float, float]
Operation = Literal["scale", "add", "set"]


def friction(ctx: Context, key: PRNGKeyArray, *, geoms: Geoms, range: Range, operation: Operation = "scale") -> Writes:
    """Sliding friction of geoms, the same draw for all of them.

    Args:
        ctx: the env.
        key: random key.
        geoms: geoms, by part or regex, or several of these.
        range: of the coefficient, of what is added to it, or of its factor.
        operation: `scale` the compiled value, `add` to it, or `set` it.

    Raises:
        ConfigError: some of it would do nothing. The friction of a contact is that of the geom with the higher contact
            priority, and of two with the same the larger one.
    """
    ids = ctx.scene.find("geom", geoms)
    compiled = _compiled(ctx, "geom_friction")[ids, 0]
    lowest = _lowest(operation, compiled, range) if _is_plain(range) else None
    check_friction_counts(ctx.scene.model, ids, lowest)
    value = _operate(operation, compiled, uniform(key, range, ()), "the friction of a geom")
    return {"geom_friction": ctx.model_field("geom_friction").at[ids, 0].set(value)}


def gravity(ctx: Context, key: PRNGKeyArray, *, range: Range) -> Writes:
    """Gravity, each axis of the world with a draw of its own added, m/s^2; as on a floor that is not level."""
    compiled = jnp.asarray(_compiled(ctx, "opt.gravity"))
    return {"opt.gravity": compiled + uniform(key, range, (3,))}


def mass(ctx: Context, key: PRNGKeyArray, *, bodies: Bodies, range: Range, operation: Operation = "scale") -> Writes:
    """Masses of bodies, each drawn for itself; the inertia follows in proportion, as with another density.

    Args:
        ctx: the env.
        key: random key.
        bodies: bodies, by part or regex, or several of these.
        range: of the mass, of what is added to it (kg), or of its factor.
        operation: `scale` the compiled value, `add` to it, or `set` it.

    Raises:
        ConfigError: a mass could become zero or negative.
    """
    ids = _heavy(ctx, bodies)
    compiled = _compiled(ctx, "body_mass")[ids]
    if _is_plain(range) and np.any(_lowest(operation, compiled, range) <= 0):
        raise ConfigError(f"range: {range[0]} would leave a body without mass")
    value = _operate(operation, compiled, uniform(key, range, (len(ids),)))
    inertia = _compiled(ctx, "body_inertia")[ids] * (value / compiled)[:, None]
    return {
        "body_mass": ctx.model_field("body_mass").at[ids].set(value),
        "body_inertia": ctx.model_field("body_inertia").at[ids].set(inertia),
    }


def centre_of_mass(ctx: Context, key: PRNGKeyArray, *, bodies: Bodies, range: Range) -> Writes:
    """Centres of mass of bodies, moved along each axis of the body by a draw of its own, m."""
    ids = _movable(ctx, bodies)
    value = _compiled(ctx, "body_ipos")[ids] + uniform(key, range, (len(ids), 3))
    return {"body_ipos": ctx.model_field("body_ipos").at[ids].set(value)}


def inertia(
    ctx: Context,
    key: PRNGKeyArray,
    *,
    bodies: Bodies,
    log_mass_range: Range = (0.0, 0.0),
    log_stretch_range: Range = (0.0, 0.0),
    shear_range: Range = (0.0, 0.0),
    shift_range: Range = (0.0, 0.0),
) -> Writes:
    """Mass, centre of mass and inertia of bodies together, such that a body with them can exist.

    The body's pseudo-inertia J (the second moments of its mass, 4 x 4) becomes U J U', U upper triangular with a
    positive diagonal: the body's matter is stretched, sheared, shifted and made denser, so J stays positive definite
    (Rucker and Wensing 2022, https://doi.org/10.1109/LRA.2022.3144517). With ranges of zero nothing changes.

    Args:
        ctx: the env.
        key: random key.
        bodies: bodies, by part or regex, or several of these.
        log_mass_range: the mass is multiplied by exp of this.
        log_stretch_range: lengths along each principal axis are multiplied by exp of this.
        shear_range: displacement along one axis per length of another.
        shift_range: of the centre of mass along each principal axis, m.
    """
    ids = _movable(ctx, bodies)
    keys = jax.random.split(key, 4)
    count = len(ids)
    log_mass = uniform(keys[0], log_mass_range, (count,))
    stretch = jnp.exp(uniform(keys[1], log_stretch_range, (count, 3)))
    shear = uniform(keys[2], shear_range, (count, 3))
    shift = uniform(keys[3], shift_range, (count, 3))
    names = ("body_mass", "body_ipos", "body_iquat", "body_inertia")
    mass_b, ipos_b, iquat_b, moments_b = (_compiled(ctx, name)[ids] for name in names)
    new = jax.vmap(_deform)(mass_b, ipos_b, iquat_b, moments_b, log_mass, stretch, shear, shift)
    return {name: ctx.model_field(name).at[ids].set(value) for name, value in zip(names, new, strict=True)}


def armature(
    ctx: Context, key: PRNGKeyArray, *, joints: Joints = ".*", range: Range, operation: Operation = "scale"
) -> Writes:
    """Rotor inertia of joints, each drawn for itself, kg m^2 (kg)."""
    return _of_dofs(ctx, key, "dof_armature", joints, range, operation)


def friction_loss(
    ctx: Context, key: PRNGKeyArray, *, joints: Joints = ".*", range: Range, operation: Operation = "scale"
) -> Writes:
    """Dry friction of joints, each drawn for itself, N m (N)."""
    return _of_dofs(ctx, key, "dof_frictionloss", joints, range, operation)


@term(actuated=True)
def gains(
    ctx: Context,
    key: PRNGKeyArray,
    *,
    joints: Joints = ".*",
    kp_range: Range = (1.0, 1.0),
    kd_range: Range = (1.0, 1.0),
) -> Writes:
    """Factors of the actuators' position and velocity gains, each drawn for itself.

    Raises:
        ConfigError: a gain that is to be scaled is 0: an actuator of effort has none, one of velocity no kp.
    """
    ids = ctx.scene.find_joints(joints, actuated=True)
    kp_key, kd_key = jax.random.split(key)
    gain, bias = _compiled(ctx, "actuator_gainprm")[ids], _compiled(ctx, "actuator_biasprm")[ids]
    tracks_position = bias[:, 1] != 0
    kp = _operate("scale", bias[:, 1], uniform(kp_key, kp_range, (len(ids),)), _unless_one(kp_range, "kp"))
    kd = _operate("scale", bias[:, 2], uniform(kd_key, kd_range, (len(ids),)), _unless_one(kd_range, "kd"))
    tracks_velocity = ~tracks_position & (bias[:, 2] != 0)
    new_gain = jnp.where(tracks_position, -kp, jnp.where(tracks_velocity, -kd, gain[:, 0]))
    return {
        "actuator_gainprm": ctx.model_field("actuator_gainprm").at[ids, 0].set(new_gain),
        "actuator_biasprm": ctx.model_field("actuator_biasprm").at[ids, 1].set(kp).at[ids, 2].set(kd),
    }


@term(actuated=True)
def torque_limit(ctx: Context, key: PRNGKeyArray, *, joints: Joints = ".*", range: Range) -> Writes:
    """Factors of what the joints' actuators can do at most, each drawn for itself."""
    ids = ctx.scene.find_joints(joints, actuated=True)
    factor = uniform(key, range, (len(ids), 1))
    value = _operate("scale", _compiled(ctx, "actuator_forcerange")[ids], factor, "the torque limit of a joint")
    return {"actuator_forcerange": ctx.model_field("actuator_forcerange").at[ids].set(value)}


def encoder_bias(ctx: Context, key: PRNGKeyArray, *, joints: Joints = ".*", range: Range) -> Writes:
    """What the joints' encoders measure too much, each drawn for itself, rad (m).

    Actuators that track a position follow the measurement; so does the observation `joint_pos`.
    """
    ids = ctx.scene.find_joints(joints)
    return {"encoder_bias": ctx.model_field("encoder_bias").at[ids].set(uniform(key, range, (len(ids),)))}


def imu_mount(
    ctx: Context,
    key: PRNGKeyArray,
    *,
    site: Sites = "imu",
    position_range: Range = (0.0, 0.0),
    tilt_range: Range = (0.0, 0.0),
) -> Writes:
    """How the inertial sensor sits on its body: what sensors at its site measure changes with it, and so do the
    observations `projected_gravity` and `base_ang_vel`, of the robot's own.

    Args:
        ctx: the env.
        key: random key.
        site: the sensor's site, by part or regex.
        position_range: along each axis of the body, m.
        tilt_range: about each axis of the site, rad.

    Raises:
        ConfigError: the robot has no such site, or several.
    """
    i, *others = ctx.scene.find("site", site)
    if others:
        raise ConfigError(f"site: must name one site, not {1 + len(others)}")
    position_key, tilt_key = jax.random.split(key)
    position = _compiled(ctx, "site_pos")[i] + uniform(position_key, position_range, (3,))
    turn = quat_from_euler(uniform(tilt_key, tilt_range, (3,)))
    quat = quat_multiply(jnp.asarray(_compiled(ctx, "site_quat")[i], turn.dtype), turn)
    return {
        "site_pos": ctx.model_field("site_pos").at[i].set(position),
        "site_quat": ctx.model_field("site_quat").at[i].set(quat),
    }


def _compiled(ctx: Context, field: str) -> np.ndarray:
    return np.asarray(ctx.scene.compiled(field), np.float32)


def _is_plain(bounds: Range) -> bool:
    """Whether a range is numbers of the config, and not what a curriculum gives."""
    return isinstance(bounds, tuple)


def _unless_one(bounds: Range, what: str) -> str:
    return "" if _is_plain(bounds) and bounds == (1.0, 1.0) else f"the {what} of an actuator"


def _lowest(operation: Operation, compiled: np.ndarray, range: Range) -> np.ndarray:
    """The lowest value that each may get, from a range of the config."""
    match operation:
        case "scale":
            return compiled * min(range)
        case "add":
            return compiled + min(range)
        case "set":
            return np.full_like(compiled, min(range))


def _operate(operation: Operation, values: np.ndarray, drawn: Array, what: str = "") -> Array:
    """The compiled values with what was drawn.

    Raises:
        ConfigError: scaling a value of 0 does nothing; `what` names it, where that matters.
    """
    match operation:
        case "scale":
            if what and np.any(values == 0):
                raise ConfigError(f"{what} is 0 in the model: to scale it does nothing; use operation 'add' or 'set'")
            return jnp.asarray(values) * drawn
        case "add":
            return jnp.asarray(values) + drawn
        case "set":
            return jnp.broadcast_to(drawn, values.shape)


def _of_dofs(ctx: Context, key: PRNGKeyArray, field: str, joints: Joints, range: Range, operation: Operation) -> Writes:
    ids = ctx.scene.joint_dof_adr[ctx.scene.find_joints(joints)]
    drawn = uniform(key, range, (len(ids),))
    value = _operate(operation, _compiled(ctx, field)[ids], drawn, f"{field} of a joint")
    return {field: ctx.model_field(field).at[ids].set(value)}


def _heavy(ctx: Context, bodies: Bodies) -> np.ndarray:
    """Ids of bodies, all of which have mass."""
    ids = ctx.scene.find("body", bodies)
    for i in ids:
        if ctx.scene.model.body_mass[i] == 0:
            raise ConfigError(f"bodies: {ctx.scene.model.body(i).name!r} has no mass")
    return ids


def _movable(ctx: Context, bodies: Bodies) -> np.ndarray:
    """Ids of bodies, the mass of all of which may move inside of them."""
    ids, model = _heavy(ctx, bodies), ctx.scene.model
    for i in ids:
        if model.body_simple[i]:  # MuJoCo then takes its mass matrix to be diagonal
            raise ConfigError(
                f"bodies: {model.body(i).name!r} is compiled as simple; give it simple='false' in the MJCF"
            )
    return ids


def _deform(
    mass: Float[Array, ""],
    ipos: Float[Array, " 3"],
    iquat: Float[Array, " 4"],
    moments: Float[Array, " 3"],
    log_mass: Float[Array, ""],
    stretch: Float[Array, " 3"],
    shear: Float[Array, " 3"],
    shift: Float[Array, " 3"],
) -> tuple[Array, Array, Array, Array]:
    """Mass, centre of mass, principal axes and moments after an affine map of the body's matter.

    In the frame of the principal axes, at the centre of mass: the second moments of the mass are
    S = tr(I) / 2 - I, there are no first ones. The map x -> A x + t makes of them A S A', and m t.
    """
    second = jnp.sum(moments) / 2.0 - moments
    scale = jnp.exp(log_mass)
    upper = jnp.diag(stretch).at[0, 1].set(shear[0]).at[0, 2].set(shear[1]).at[1, 2].set(shear[2])
    second_33 = scale * (upper * second) @ upper.T
    inertia_33 = jnp.trace(second_33) * jnp.eye(3) - second_33
    new_moments, turn = principal_axes(inertia_33)
    return mass * scale, ipos + rotate(iquat, shift), quat_multiply(iquat, turn), new_moments


def principal_axes(inertia: Float[Array, "3 3"]) -> tuple[Float[Array, " 3"], Float[Array, " 4"]]:
    """Moments of a symmetric matrix and the turn to its axes, by Jacobi's rotations.

    Not by `jnp.linalg.eigh`: LAPACK in a batch can hang JAX's CPU backend where it has few threads.
    """
    quat = jnp.array([1.0, 0.0, 0.0, 0.0], inertia.dtype)
    for _ in range(6):  # sweeps; convergence is quadratic
        for axis in (0, 1, 2):
            p, q = (axis + 1) % 3, (axis + 2) % 3
            angle = 0.5 * jnp.arctan2(2.0 * inertia[p, q], inertia[p, p] - inertia[q, q])
            # The smaller of the two angles that do it keeps the order of the axes.
            angle = jnp.where(angle > jnp.pi / 4, angle - jnp.pi / 2, angle)
            angle = jnp.where(angle < -jnp.pi / 4, angle + jnp.pi / 2, angle)
            cos, sin = jnp.cos(angle), jnp.sin(angle)
            turn = jnp.eye(3, dtype=inertia.dtype).at[[p, q], [p, q]].set(cos).at[q, p].set(sin).at[p, q].set(-sin)
            inertia = turn.T @ inertia @ turn
            half = jnp.zeros(4, inertia.dtype).at[0].set(jnp.cos(angle / 2)).at[1 + axis].set(jnp.sin(angle / 2))
            quat = quat_multiply(quat, half)
    return jnp.diagonal(inertia), quat
