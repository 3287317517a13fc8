"""Rotations against MuJoCo and SciPy."""

import jax.numpy as jnp
import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from ksim.envs.math import quat_from_euler, quat_multiply, rotate, rotate_inverse

RNG = np.random.default_rng(0)


def random_quat():
    quat = RNG.normal(size=4)
    return quat / np.linalg.norm(quat)


def test_rotation_of_vectors():
    for _ in range(5):
        quat, vector, expected = random_quat(), RNG.normal(size=3), np.zeros(3)
        mujoco.mju_rotVecQuat(expected, vector, quat)
        np.testing.assert_allclose(rotate(jnp.asarray(quat), jnp.asarray(vector)), expected, atol=1e-6)
        np.testing.assert_allclose(rotate_inverse(jnp.asarray(quat), jnp.asarray(expected)), vector, atol=1e-6)


def test_product_of_quaternions():
    for _ in range(5):
        a, b, expected = random_quat(), random_quat(), np.zeros(4)
        mujoco.mju_mulQuat(expected, a, b)
        np.testing.assert_allclose(quat_multiply(jnp.asarray(a), jnp.asarray(b)), expected, atol=1e-6)


def test_roll_pitch_yaw_are_about_the_worlds_axes():
    for _ in range(5):
        angles = RNG.uniform(-1.5, 1.5, 3)
        expected = Rotation.from_euler("xyz", angles).as_matrix()  # lower case: about fixed axes
        quat = np.asarray(quat_from_euler(jnp.asarray(angles)))
        np.testing.assert_allclose(Rotation.from_quat(quat, scalar_first=True).as_matrix(), expected, atol=1e-6)
