"""Observation, termination and metric terms against the same numbers from MuJoCo and NumPy."""

import numpy as np
import pytest
from support import measure
from support.terms import commanded, context, simulation

from ksim.envs.traits import traits_of
from ksim.errors import ConfigError
from ksim.mdp import metrics, observations, terminations

ACTION = np.array([0.5, -1.0, 2.0])

OBSERVATIONS = {
    "base_lin_vel": ({}, lambda s, d: measure.velocity(s, d, "base", local=True)[1]),
    "base_ang_vel": ({}, lambda s, d: measure.velocity(s, d, "base", local=True)[0]),
    "projected_gravity": ({}, measure.gravity),
    "base_height": ({}, lambda s, d: d.body("base").xpos[2:]),
    "joint_pos": ({}, lambda s, d: measure.joints(s, d)[0] - measure.joints(s, d)[2]),
    "joint_vel": ({"joints": ".*left.*"}, lambda s, d: measure.joints(s, d, "left")[1]),
    "joint_pos_cos_sin": (
        {"joints": ".*ankle.*"},
        lambda s, d: np.concatenate([f(measure.joints(s, d, "ankle")[0]) for f in (np.cos, np.sin)]),
    ),
    "last_action": ({}, lambda s, d: ACTION),
    "actuator_force": ({"joints": ".*ankle.*"}, lambda s, d: d.actuator_force[[4, 9]]),
    "command": ({"name": "twist"}, lambda s, d: [0.4, -0.3, 0.8]),
    "heights": (
        {"bodies": ".*FootBushing.*"},
        lambda s, d: [d.body(f"{side}FootBushing_GPF_1517_12").xpos[2] for side in "LR"],
    ),
    "phase": ({"period_s": 0.8}, lambda s, d: [np.cos(2 * np.pi * 0.74 / 0.8), np.sin(2 * np.pi * 0.74 / 0.8)]),
    "sensor": ({"name": "imu_acc"}, lambda s, d: d.sensor("imu_acc").data),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_an_observation_is_what_mujoco_measures(kbot, name):
    params, expected = OBSERVATIONS[name]
    data = simulation(kbot, seed=2)
    ctx = context(kbot, data, action=ACTION, episode_step=37, memory=commanded(0.4, -0.3, 0.8))  # at 0.74 s
    value = getattr(observations, name)(ctx, **params)
    np.testing.assert_allclose(value, expected(kbot, data), rtol=1e-5, atol=1e-5)


def test_every_observation_term_is_tested():
    own = {n for n, f in vars(observations).items() if getattr(f, "__module__", "") == observations.__name__}
    elsewhere = {"contacts", "contact_force", "air_time"}  # test_contact_terms.py
    elsewhere |= {"clearance", "command_time_left", "ground_scan"}  # test_gait.py, envs/test_ground.py
    assert {name for name in own if name[0] != "_"} == set(OBSERVATIONS) | elsewhere


def test_gravity_points_down_in_an_upright_robot(kbot):
    data = simulation(kbot)
    data.qpos[3:7] = [np.cos(0.4), 0, 0, np.sin(0.4)]  # turned about the vertical
    np.testing.assert_allclose(observations.projected_gravity(context(kbot, data)), [0, 0, -1], atol=1e-6)


def test_joints_are_told_in_the_order_of_the_actuators(kbot):
    """Not in that of the model, where the arms are in another place."""
    data = simulation(kbot)
    ctx = context(kbot, data)
    names = [kbot.model.actuator(u).name for u in range(kbot.model.nu)]
    np.testing.assert_allclose(ctx.joint_pos, [data.joint(name).qpos[0] for name in names], atol=1e-6)


def test_time_is_derived_from_a_counter(kbot):
    ctx = context(kbot, simulation(kbot), episode_step=1000)
    np.testing.assert_allclose(ctx.time_s, 20.0, rtol=1e-6)


def test_an_unknown_sensor_or_field_is_named(kbot):
    ctx = context(kbot, simulation(kbot))
    with pytest.raises(ConfigError, match="imu_ac.*did you mean 'imu_acc'"):
        observations.sensor(ctx, name="imu_ac")
    with pytest.raises(AttributeError, match="no 'subtree_linvel'"):
        _ = ctx.subtree_linvel


def leaning(scene, angle):
    data = simulation(scene)
    data.qpos[3:7] = [np.cos(angle / 2), 0.6 * np.sin(angle / 2), 0.8 * np.sin(angle / 2), 0]
    return data


@pytest.mark.parametrize("angle", [0.0, 0.79, 0.81, 2.0])
def test_bad_orientation_is_an_angle_from_upright(kbot, angle):
    ctx = context(kbot, leaning(kbot, angle))
    assert terminations.bad_orientation(ctx, limit_rad=0.8) == (angle > 0.8)
    np.testing.assert_allclose(metrics.tilt(ctx), angle, atol=1e-3)


def test_low_height(kbot):
    data = simulation(kbot)
    data.qpos[2] = 0.5
    assert terminations.low_height(context(kbot, data), limit=0.51)
    assert not terminations.low_height(context(kbot, data), limit=0.49)


def test_a_joint_out_of_range(cartpole):
    data = simulation(cartpole)
    for angle, out in ((0.19, False), (-0.21, True), (0.21, True)):
        data.joint("hinge").qpos = angle
        assert terminations.joint_out_of_range(context(cartpole, data), joints="hinge", limit=0.2) == out


def test_the_time_is_out_in_the_last_step(kbot):
    data = simulation(kbot)
    for step, out in ((99, False), (100, True), (101, True)):
        assert terminations.time_out(context(kbot, data, episode_step=step, max_episode_steps=100)) == out
    assert traits_of(terminations.time_out).time_out


def test_metrics(kbot):
    data = simulation(kbot, seed=4)
    ctx = context(kbot, data)
    np.testing.assert_allclose(metrics.drift(ctx), np.linalg.norm(data.body("base").xpos[:2]), rtol=1e-5)
    speed = np.linalg.norm(measure.velocity(kbot, data, "base", local=False)[1][:2])
    np.testing.assert_allclose(metrics.speed(ctx), speed, rtol=1e-5)
    part = data.actuator_force / kbot.model.actuator_forcerange[:, 1]
    np.testing.assert_allclose(metrics.torque_use(ctx), np.sqrt(np.mean(part**2)), rtol=1e-5)


def test_metrics_of_a_velocity_command(kbot):
    """Of a robot that leans and has turned: what is commanded is over the floor, from its heading."""
    data = simulation(kbot, seed=4)
    angular, linear = measure.velocity(kbot, data, "base", local=False)
    forward = data.body("base").xmat.reshape(3, 3)[:2, 0] / np.linalg.norm(data.body("base").xmat.reshape(3, 3)[:2, 0])
    left = np.array([-forward[1], forward[0]])
    own = np.array([linear[:2] @ forward, linear[:2] @ left])
    ctx = context(kbot, data, memory=commanded(own[0] + 0.3, own[1] - 0.4, angular[2] + 0.7))
    np.testing.assert_allclose(metrics.lin_vel_error(ctx, command="twist"), 0.5, rtol=1e-4)
    np.testing.assert_allclose(metrics.yaw_rate_error(ctx, command="twist"), 0.7, rtol=1e-4)
