"""Moving a floating base by hand: steps in position, orientation and velocity, with NumPy."""

import mujoco
import numpy as np
from numpy.typing import ArrayLike


def turned(quat: ArrayLike, roll: float, pitch: float, yaw: float) -> np.ndarray:
    """An orientation (wxyz) turned by yaw about the world's z axis, then by roll and pitch about its own; rad."""
    result = np.asarray(quat, float)
    result = _product(_about([0.0, 0.0, 1.0], yaw), result)
    result = _product(result, _about([1.0, 0.0, 0.0], roll))
    result = _product(result, _about([0.0, 1.0, 0.0], pitch))
    return result / np.linalg.norm(result)


def spun(quat: ArrayLike, angular: ArrayLike, roll: float, pitch: float, yaw: float) -> np.ndarray:
    """An angular velocity in the body's frame plus one about the axes that `turned` turns about, rad/s."""
    up = np.zeros(3)
    inverse = np.zeros(4)
    mujoco.mju_negQuat(inverse, np.asarray(quat, float))
    mujoco.mju_rotVecQuat(up, np.array([0.0, 0.0, 1.0]), inverse)
    return np.asarray(angular, float) + [roll, pitch, 0.0] + yaw * up


def _about(axis: list[float], angle: float) -> np.ndarray:
    quat = np.zeros(4)
    mujoco.mju_axisAngle2Quat(quat, np.array(axis), angle)
    return quat


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    quat = np.zeros(4)
    mujoco.mju_mulQuat(quat, a, b)
    return quat
