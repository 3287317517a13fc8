"""Reward terms against the same numbers from MuJoCo and NumPy."""

import numpy as np
import pytest
from support import measure
from support.terms import context, simulation

from ksim.errors import ConfigError
from ksim.mdp import rewards

ACTION, PREV_ACTION = np.array([0.5, -1.0, 2.0]), np.array([0.25, 1.0, 2.5])


def base(scene, data, local):
    return measure.velocity(scene, data, scene.robot.base_body, local=local)


def capture_point(scene, data):
    ankles = np.mean([data.body(b).xpos for b in ("LFootBushing_GPF_1517_12", "RFootBushing_GPF_1517_12")], axis=0)
    com = data.body("base").subtree_com
    xi = com[:2] + base(scene, data, False)[1][:2] / np.sqrt(9.81 / (com[2] - ankles[2]))
    return np.exp(-np.sum((xi - ankles[:2]) ** 2) / 0.2**2)


def feet_speed(scene, data):
    feet = ("LFootBushing_GPF_1517_12", "RFootBushing_GPF_1517_12")
    return [np.linalg.norm(measure.velocity(scene, data, foot, local=False)[1]) for foot in feet]


def knees(scene, data):
    return measure.joints(scene, data, "knee")


CASES = {
    "upright": ({"std": 0.4}, lambda s, d: np.exp(-np.sum(measure.gravity(s, d)[:2] ** 2) / 0.4**2)),
    "base_height": ({"target": 0.9, "std": 0.2}, lambda s, d: np.exp(-((d.body("base").xpos[2] - 0.9) ** 2) / 0.2**2)),
    "still": ({"std": 0.5}, lambda s, d: np.exp(-np.linalg.norm(base(s, d, False)[1][:2]) / 0.5)),
    "capture_point": ({"feet": ".*FootBushing.*", "std": 0.2}, capture_point),
    "bodies_still": (
        {"bodies": ".*FootBushing.*", "std": 0.4},
        lambda s, d: np.mean(np.exp(-np.array(feet_speed(s, d)) / 0.4)),
    ),
    "base_ang_vel_xy": ({}, lambda s, d: np.sum(base(s, d, True)[0][:2] ** 2)),
    "base_yaw_rate": ({}, lambda s, d: base(s, d, True)[0][2] ** 2),
    "posture": (
        {"joints": ".*knee.*", "std": 0.3},
        lambda s, d: np.exp(-np.mean((knees(s, d)[0] - knees(s, d)[2]) ** 2) / 0.3**2),
    ),
    "joint_deviation": ({"joints": ".*knee.*"}, lambda s, d: np.sum((knees(s, d)[0] - knees(s, d)[2]) ** 2)),
    "joint_vel": ({"joints": ".*knee.*"}, lambda s, d: np.sum(knees(s, d)[1] ** 2)),
    "joint_near": (
        {"joints": ".*knee.*", "target": 0.2, "std": 0.7},
        lambda s, d: np.exp(-np.mean((knees(s, d)[0] - 0.2) ** 2) / 0.7**2),
    ),
    "torque": ({}, lambda s, d: np.mean((d.actuator_force / s.model.actuator_forcerange[:, 1]) ** 2)),
    "action_rate": ({}, lambda s, d: np.sum((ACTION - PREV_ACTION) ** 2)),
    "action_size": ({}, lambda s, d: np.sum(ACTION**2)),
    "alive": ({}, lambda s, d: 1.0),
    "terminated": ({}, lambda s, d: 0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_term_is_its_formula(kbot, name):
    params, expected = CASES[name]
    for seed in (0, 1):
        data = simulation(kbot, seed)
        ctx = context(kbot, data, action=ACTION, prev_action=PREV_ACTION)
        value = getattr(rewards, name)(ctx, **params)
        assert value.shape == ()
        np.testing.assert_allclose(value, expected(kbot, data), rtol=1e-4, atol=1e-6)


def test_every_reward_term_is_tested():
    terms = {n for n, f in vars(rewards).items() if getattr(f, "__module__", "") == rewards.__name__}
    assert terms == set(CASES) | {"pole_upright"}


def test_terms_read_the_verdict_of_the_terminations(kbot):
    data = simulation(kbot)
    ended = context(kbot, data, terminated=True)
    assert rewards.alive(ended) == 0 and rewards.terminated(ended) == 1
    assert rewards.alive(context(kbot, data, truncated=True)) == 1  # a time-out is no fall


def test_the_pole_is_upright_at_zero(cartpole):
    data = simulation(cartpole)
    for angle, value in ((0.0, 1.0), (np.pi / 2, 0.5), (np.pi, 0.0), (2 * np.pi, 1.0)):
        data.joint("hinge").qpos = angle
        np.testing.assert_allclose(rewards.pole_upright(context(cartpole, data), joint="hinge"), value, atol=1e-6)


def test_a_robot_without_a_floating_base_has_no_base_terms(cartpole):
    ctx = context(cartpole, simulation(cartpole))
    for term in (rewards.upright, rewards.still, rewards.base_yaw_rate):
        with pytest.raises(ConfigError, match="'cartpole' has no floating base"):
            term(ctx)
