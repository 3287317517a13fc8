"""Rotations as terms need them; quaternions are unit, wxyz."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rotate(quat: Float[Array, " 4"], vector: Float[Array, " 3"]) -> Float[Array, " 3"]:
    """The vector turned by the quaternion: from the body's frame to the world's."""
    w, xyz = quat[0], quat[1:]
    t = 2.0 * jnp.cross(xyz, vector)
    return vector + w * t + jnp.cross(xyz, t)


def rotate_inverse(quat: Float[Array, " 4"], vector: Float[Array, " 3"]) -> Float[Array, " 3"]:
    """The vector turned back by the quaternion: from the world's frame to the body's."""
    return rotate(quat * jnp.array([1.0, -1.0, -1.0, -1.0], quat.dtype), vector)


def quat_multiply(a: Float[Array, " 4"], b: Float[Array, " 4"]) -> Float[Array, " 4"]:
    """Hamilton product: first the turn `b`, then `a`."""
    aw, av, bw, bv = a[0], a[1:], b[0], b[1:]
    return jnp.concatenate([(aw * bw - av @ bv)[None], aw * bv + bw * av + jnp.cross(av, bv)])


def quat_from_euler(rpy: Float[Array, " 3"]) -> Float[Array, " 4"]:
    """Quaternion of roll, pitch, yaw (rad): about x first, then y, then z, all world axes."""
    half = 0.5 * rpy
    (cr, cp, cy), (sr, sp, sy) = jnp.cos(half), jnp.sin(half)
    return jnp.stack(
        [
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ]
    )


def yaw_of(quat: Float[Array, " 4"]) -> Float[Array, ""]:
    """Heading of a body, rad: the angle of its x axis about the world's z axis."""
    w, x, y, z = quat
    return jnp.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def wrap_angle(angle: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The same angle in [-pi, pi), rad."""
    return jnp.mod(angle + jnp.pi, 2.0 * jnp.pi) - jnp.pi
