"""The actuators against the control law that they stand for."""

import mujoco
import numpy as np
import pytest

from ksim import robots
from ksim.errors import ConfigError
from ksim.robots import Control, Robot


def forces(control: dict[str, Control], ctrl: float, q: float = 0.2, v: float = 0.3) -> tuple[np.ndarray, Robot]:
    """Torque of each actuator (u,) with all joints at angle ``q`` (rad) and velocity ``v`` (rad/s)."""
    robot = robots.load("kbot")
    robots.add_actuators(robot.spec, robot)
    model = robot.spec.compile()
    robots.set_control(model, robot, control)
    assert tuple(model.actuator(u).name for u in range(model.nu)) == robot.joint_names
    assert tuple(model.joint(j).name for j in model.actuator_trnid[:, 0]) == robot.joint_names
    data = mujoco.MjData(model)
    data.qpos[7:], data.qvel[6:], data.ctrl[:] = q, v, ctrl
    mujoco.mj_forward(model, data)
    return data.actuator_force.copy(), robot


def test_position_is_the_default() -> None:
    force_u, robot = forces({}, ctrl=0.21)
    expected_u = robot.kp_u * (0.21 - 0.2) - robot.kd_u * 0.3
    np.testing.assert_allclose(force_u, np.clip(expected_u, -robot.torque_limit_u, robot.torque_limit_u), rtol=1e-9)
    assert np.any(np.abs(force_u) < robot.torque_limit_u)


def test_velocity() -> None:
    names = robots.load("kbot").joint_names
    force_u, robot = forces(dict.fromkeys(names, "velocity"), ctrl=0.5)
    np.testing.assert_allclose(force_u, robot.kd_u * (0.5 - 0.3), rtol=1e-9)


def test_effort() -> None:
    names = robots.load("kbot").joint_names
    force_u, _ = forces(dict.fromkeys(names, "effort"), ctrl=1.5)
    np.testing.assert_array_equal(force_u, 1.5)


@pytest.mark.parametrize("kind", ["position", "velocity", "effort"])
def test_controls_are_free_and_torques_are_clamped(kind: Control) -> None:
    names = robots.load("kbot").joint_names
    for sign in (1, -1):
        force_u, robot = forces(dict.fromkeys(names, kind), ctrl=sign * 1e4)
        np.testing.assert_array_equal(force_u, sign * robot.torque_limit_u)


def test_kinds_can_be_mixed() -> None:
    force_u, robot = forces({"dof_left_knee_04": "effort", "dof_right_wrist_00": "velocity"}, ctrl=0.25)
    knee, wrist = (robot.joint_names.index(name) for name in ("dof_left_knee_04", "dof_right_wrist_00"))
    assert force_u[knee] == 0.25
    np.testing.assert_allclose(force_u[wrist], robot.kd_u[wrist] * (0.25 - 0.3), rtol=1e-9)
    hip = robot.joint_names.index("dof_left_hip_yaw_03")
    np.testing.assert_allclose(force_u[hip], robot.kp_u[hip] * (0.25 - 0.2) - robot.kd_u[hip] * 0.3, rtol=1e-9)


def test_an_unknown_joint_is_named() -> None:
    robot = robots.load("kbot")
    with pytest.raises(ConfigError, match="no actuated joint 'dof_left_kne_04' .did you mean 'dof_left_knee_04'"):
        robots.set_control(robot.spec.compile(), robot, {"dof_left_kne_04": "effort"})


def test_an_unknown_control_is_named() -> None:
    robot = robots.load("kbot")
    with pytest.raises(ConfigError, match="control is one of position, velocity, effort, not 'torque'"):
        robots.set_control(robot.spec.compile(), robot, {"dof_left_knee_04": "torque"})  # type: ignore[dict-item]
