"""What the rest of ksim knows about a robot."""

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from ksim.robots.parts import Part


@dataclass(frozen=True)
class Mirror:
    """The left-right mirror map of the actuated joints.

    Of a pose ``q_u``, the pose mirrored in the x-z plane is ``joint_sign_u * q_u[joint_index_u]``. The same holds for
    velocities, torques and controls.
    """

    joint_index_u: np.ndarray
    """(u,) int."""
    joint_sign_u: np.ndarray
    """(u,) float, each 1 or -1."""


@dataclass(frozen=True)
class Robot:
    """A robot as loaded: its model without actuators, and its table.

    Arrays with the suffix u have a value for each actuated joint, in the order of the actuators.
    """

    name: str
    spec: mujoco.MjSpec
    """The caller's own, to add a floor, actuators and sensors to; armatures are those of the table."""
    parts: Mapping[str, Part]
    """What tasks may name, such as legs and feet."""
    joint_names: tuple[str, ...]
    kp_u: np.ndarray
    """Position gain, N m/rad (N/m for a slide joint)."""
    kd_u: np.ndarray
    """Velocity gain, N m s/rad (N s/m)."""
    torque_limit_u: np.ndarray
    """What the simulated actuator is clamped to, N m (N)."""
    armature_u: np.ndarray
    """Rotor inertia seen at the joint, kg m^2 (kg)."""
    home_qpos: np.ndarray
    """(nq,), in MuJoCo's layout; the feet of a legged robot touch a floor at z = 0."""
    keyframes: Mapping[str, np.ndarray]
    """Poses that the MJCF names, each (nq,)."""
    base_body: str
    """The body of the part ``base``."""
    is_floating_base: bool
    """Whether ``base_body`` moves freely (has a free joint)."""
    imu_site: str | None
    """The site of the part ``imu``."""
    mirror: Mirror | None
