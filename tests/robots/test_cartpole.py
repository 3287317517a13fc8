"""The cart-pole against its equations of motion."""

import mujoco
import numpy as np
import pytest

from ksim import robots

CART_MASS, POLE_MASS, LENGTH, RADIUS, GRAVITY = 1.0, 0.1, 1.0, 0.045, 9.81


def pole_inertia() -> float:
    """Of a capsule about its middle, across its axis, kg m^2."""
    cylinder, ball = np.pi * RADIUS**2 * LENGTH, 4 / 3 * np.pi * RADIUS**3
    m_cylinder, m_ball = (POLE_MASS * volume / (cylinder + ball) for volume in (cylinder, ball))
    of_cylinder = m_cylinder * (3 * RADIUS**2 + LENGTH**2) / 12
    of_caps = m_ball * (2 / 5 * RADIUS**2 + LENGTH**2 / 4 + 3 / 8 * LENGTH * RADIUS)
    return of_cylinder + of_caps


@pytest.mark.parametrize(("angle", "rate", "push"), [(0.0, 0.0, 10.0), (0.3, 0.0, 0.0), (2.0, -1.5, -4.0)])
def test_accelerations(angle: float, rate: float, push: float) -> None:
    robot = robots.load("cartpole")
    robots.add_actuators(robot.spec, robot)
    model = robot.spec.compile()
    robots.set_control(model, robot, {"slider": "effort"})
    model.dof_damping[:] = 0
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[0] = [0.1, angle], [0.2, rate], push
    mujoco.mj_forward(model, data)
    half = LENGTH / 2
    coupling = POLE_MASS * half * np.cos(angle)
    inertia = np.array([[CART_MASS + POLE_MASS, coupling], [coupling, pole_inertia() + POLE_MASS * half**2]])
    force = [push + POLE_MASS * half * np.sin(angle) * rate**2, POLE_MASS * GRAVITY * half * np.sin(angle)]
    np.testing.assert_allclose(data.qacc, np.linalg.solve(inertia, force), rtol=1e-6, atol=1e-9)


def test_the_motor_has_10_newtons_and_the_rail_ends_at_1_8() -> None:
    robot = robots.load("cartpole")
    robots.add_actuators(robot.spec, robot)
    model = robot.spec.compile()
    robots.set_control(model, robot, {"slider": "effort"})
    assert robot.joint_names == ("slider",)
    np.testing.assert_array_equal(model.actuator_forcerange, [[-10, 10]])
    np.testing.assert_array_equal(model.joint("slider").range, [-1.8, 1.8])
    assert not model.jnt_limited[model.joint("hinge").id]


def test_home_is_upright_above_the_floor() -> None:
    robot = robots.load("cartpole")
    model = robot.spec.compile()
    data = mujoco.MjData(model)
    data.qpos[:] = robot.home_qpos
    mujoco.mj_kinematics(model, data)
    assert data.site("tip").xpos[2] == pytest.approx(data.body("cart").xpos[2] + LENGTH)
    data.qpos[1] = np.pi
    mujoco.mj_kinematics(model, data)
    assert data.site("tip").xpos[2] > RADIUS


def test_mirror_turns_the_cart_round() -> None:
    mirror = robots.load("cartpole").mirror
    assert mirror is not None
    assert (list(mirror.joint_index_u), list(mirror.joint_sign_u)) == ([0], [-1.0])
