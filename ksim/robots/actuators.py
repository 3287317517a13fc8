"""Actuators of a robot, added to its spec."""

from collections.abc import Mapping
from typing import Literal

import mujoco

from ksim.config.words import hint
from ksim.errors import ConfigError
from ksim.robots.robot import Robot

Control = Literal["position", "velocity", "effort"]
"""What an actuator's control is: a target angle (rad), a target velocity (rad/s) or a torque (N m)."""

_CONTROLS = ("position", "velocity", "effort")


def add_actuators(spec: mujoco.MjSpec, robot: Robot, control: Mapping[str, Control]) -> None:
    """Add one actuator per joint to ``spec``, in the table's order and named after the joint.

    With ``implicitfast`` MuJoCo takes the velocity feedback of these affine actuators implicitly, which stays stable
    at gains where a torque computed outside of the solver does not. Controls are not clamped, torques are, to
    ``torque_limit``.

    Args:
        spec: holds the robot's joints (its own spec, or a scene that it was attached to).
        robot: gives gains and limits.
        control: joint name to kind of control; the other joints get "position", to hold an angle.

    Raises:
        ConfigError: a name that is no actuated joint of the robot, or an unknown kind of control.
    """
    for name, kind in control.items():
        if name not in robot.joint_names:
            raise ConfigError(
                f"task.actions: robot '{robot.name}' has no actuated joint '{name}'{hint(name, robot.joint_names)}; "
                f"there are: {', '.join(robot.joint_names)}"
            )
        if kind not in _CONTROLS:
            raise ConfigError(f"task.actions: joint '{name}': control is one of {', '.join(_CONTROLS)}, not {kind!r}")
    for u, name in enumerate(robot.joint_names):
        kp, kd, limit = float(robot.kp_u[u]), float(robot.kd_u[u]), float(robot.torque_limit_u[u])
        gain, bias = {
            "position": (kp, (0.0, -kp, -kd)),
            "velocity": (kd, (0.0, 0.0, -kd)),
            "effort": (1.0, None),
        }[control.get(name, "position")]
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
        actuator.gainprm[0] = gain
        actuator.biastype = mujoco.mjtBias.mjBIAS_NONE if bias is None else mujoco.mjtBias.mjBIAS_AFFINE
        if bias is not None:
            actuator.biasprm[:3] = bias
        actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
        actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        actuator.forcerange[:] = (-limit, limit)
