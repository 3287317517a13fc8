"""Actuators of a robot: added to its spec, and set to what they track once it is compiled."""

from collections.abc import Mapping
from typing import Literal

import mujoco

from ksim.config.words import hint
from ksim.errors import ConfigError
from ksim.robots.robot import Robot

Control = Literal["position", "velocity", "effort"]
"""What an actuator's control is: a target angle (rad), a target velocity (rad/s) or a torque (N m)."""

_CONTROLS = ("position", "velocity", "effort")


def add_actuators(spec: mujoco.MjSpec, robot: Robot) -> None:
    """Add one actuator per joint to ``spec``, in the table's order and named after the joint; each holds an angle.

    With ``implicitfast`` MuJoCo takes the velocity feedback of these affine actuators implicitly, which stays stable
    at gains where a torque computed outside of the solver does not. Controls are not clamped, torques are, to
    ``torque_limit``.

    Args:
        spec: holds the robot's joints (its own spec, or a scene that it was attached to).
        robot: gives gains and limits.
    """
    for u, name in enumerate(robot.joint_names):
        limit = float(robot.torque_limit_u[u])
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
        actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
        actuator.gainprm[0], actuator.biasprm[:3] = _affine(robot, u, "position")
        actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
        actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        actuator.forcerange[:] = (-limit, limit)


def set_control(model: mujoco.MjModel, robot: Robot, control: Mapping[str, Control]) -> None:
    """Set what actuators of a compiled model track; nothing else in it depends on that.

    Args:
        model: with the actuators of `add_actuators`.
        robot: gives gains.
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
    bias_type = dict.fromkeys(_CONTROLS, mujoco.mjtBias.mjBIAS_AFFINE) | {"effort": mujoco.mjtBias.mjBIAS_NONE}
    for u, name in enumerate(robot.joint_names):
        kind = control.get(name, "position")
        actuator = model.actuator(name)
        actuator.biastype[:] = bias_type[kind].value
        actuator.gainprm[0], actuator.biasprm[:3] = _affine(robot, u, kind)


def _affine(robot: Robot, u: int, control: Control) -> tuple[float, tuple[float, float, float]]:
    """Gain and bias of a torque ``gain * ctrl + bias @ (1, position, velocity)``."""
    kp, kd = float(robot.kp_u[u]), float(robot.kd_u[u])
    match control:
        case "position":
            return kp, (0.0, -kp, -kd)
        case "velocity":
            return kd, (0.0, 0.0, -kd)
        case "effort":
            return 1.0, (0.0, 0.0, 0.0)
