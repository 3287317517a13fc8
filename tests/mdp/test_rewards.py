"""Reward terms against the same numbers from MuJoCo and NumPy."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support import measure
from support.terms import commanded, context, simulation

from ksim.errors import ConfigError
from ksim.mdp import rewards
from ksim.mdp.quantities import Share

ACTION, PREV_ACTION = np.array([0.5, -1.0, 2.0]), np.array([0.25, 1.0, 2.5])


def base(scene, data, local):
    return measure.velocity(scene, data, scene.robot.base_body, local=local)


def capture_point(scene, data, beyond=(0.0, 0.0)):
    ankles = np.mean([data.body(b).xpos for b in ("LFootBushing_GPF_1517_12", "RFootBushing_GPF_1517_12")], axis=0)
    com = data.body("base").subtree_com
    xi = com[:2] + (base(scene, data, False)[1][:2] - beyond) / np.sqrt(9.81 / (com[2] - ankles[2]))
    return np.exp(-np.sum((xi - ankles[:2]) ** 2) / 0.2**2)


def feet_speed(scene, data):
    feet = ("LFootBushing_GPF_1517_12", "RFootBushing_GPF_1517_12")
    return [np.linalg.norm(measure.velocity(scene, data, foot, local=False)[1]) for foot in feet]


def knees(scene, data):
    return measure.joints(scene, data, "knee")


KNEES = ("dof_left_knee_04", "dof_right_knee_04")
COMMAND = np.array([0.4, -0.3, 0.8])


def over_floor(scene, data):
    """(x, y, yaw rate) in the frame of the heading, from MuJoCo's velocities in the world."""
    angular, linear = base(scene, data, False)
    forward = data.body("base").xmat.reshape(3, 3)[:, 0]
    heading = np.arctan2(forward[1], forward[0])
    x, y, _ = Rotation.from_euler("z", -heading).apply(linear)
    return np.array([x, y, angular[2]])


def soft_violation(scene, data, factor):
    total = 0.0
    for name in scene.joint_names:
        lower, upper = scene.model.joint(name).range
        middle, half = (lower + upper) / 2, factor * (upper - lower) / 2
        q = data.joint(name).qpos[0]
        total += max(middle - half - q, 0) + max(q - middle - half, 0)
    return total


def mirrored_difference(scene, data):
    q, _, home = measure.joints(scene, data, "")
    q = q - home
    mirror = scene.robot.mirror
    return np.mean((q - mirror.joint_sign_u * q[mirror.joint_index_u]) ** 2)


def graded_posture(scene, data):
    q, _, home = measure.joints(scene, data, "")
    std = np.array([0.1 if "ankle" in n else 0.6 if "knee" in n else 0.3 for n in scene.joint_names])
    return np.exp(-np.mean(((q - home) / std) ** 2))


CASES = {
    "track_lin_vel": (
        {"command": "twist", "std": 0.7},
        lambda s, d: np.exp(-np.sum((over_floor(s, d)[:2] - COMMAND[:2]) ** 2) / 0.7**2),
    ),
    "track_ang_vel": (
        {"command": "twist", "std": 0.7},
        lambda s, d: np.exp(-((over_floor(s, d)[2] - COMMAND[2]) ** 2) / 0.7**2),
    ),
    "orientation": ({}, lambda s, d: 1 - d.body("base").xmat[8] ** 2),
    "base_lin_vel_z": ({}, lambda s, d: base(s, d, True)[1][2] ** 2),
    "stand_still": (
        {"command": "twist", "joints": ".*knee.*", "max_command": 1.0},
        lambda s, d: np.sum(np.abs(knees(s, d)[0] - knees(s, d)[2])),
    ),
    "asymmetry": ({}, mirrored_difference),
    "joint_acc": ({"joints": ".*knee.*"}, lambda s, d: sum(d.joint(n).qacc[0] ** 2 for n in KNEES)),
    "joint_limits": ({"soft_factor": 0.3}, lambda s, d: soft_violation(s, d, 0.3)),
    "power": (
        {"joints": ".*knee.*"},
        lambda s, d: sum(abs(d.actuator(n).force[0] * d.joint(n).qvel[0]) for n in KNEES),
    ),
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


def test_the_capture_point_of_the_velocity_beyond_the_command(kbot):
    """The command is in the base's heading frame, the capture point in the world."""
    data = simulation(kbot)
    forward = data.body("base").xmat.reshape(3, 3)[:, 0]
    heading = np.arctan2(forward[1], forward[0])
    assert abs(heading) > 0.1
    commanded_xy = Rotation.from_euler("z", heading).apply([*COMMAND[:2], 0.0])[:2]
    ctx = context(kbot, data, memory=commanded(*COMMAND))
    value = rewards.capture_point(ctx, feet=".*FootBushing.*", std=0.2, command="twist")
    np.testing.assert_allclose(value, capture_point(kbot, data, commanded_xy), rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_term_is_its_formula(kbot, name):
    params, expected = CASES[name]
    for seed in (0, 1):
        data = simulation(kbot, seed)
        ctx = context(kbot, data, action=ACTION, prev_action=PREV_ACTION, memory=commanded(*COMMAND))
        value = getattr(rewards, name)(ctx, **params)
        assert value.shape == ()
        np.testing.assert_allclose(value, expected(kbot, data), rtol=1e-4, atol=1e-6)


def test_every_reward_term_is_tested():
    terms = {n for n, f in vars(rewards).items() if getattr(f, "__module__", "") == rewards.__name__}
    of_contacts = {"feet_air_time", "feet_slip", "feet_clearance", "contact_force"}  # in test_contact_terms.py
    of_contacts |= {"feet_swing", "feet_on_time"}  # in test_gait.py
    assert terms == set(CASES) | of_contacts | {"pole_upright", "action_rate_rate"}


def test_posture_has_a_std_for_each_joint(kbot):
    data = simulation(kbot, seed=3)
    std = {".*": 0.3, ".*knee.*": 0.6, ".*ankle.*": 0.1}  # the last one that matches
    value = rewards.posture(context(kbot, data), std=std)
    np.testing.assert_allclose(value, graded_posture(kbot, data), rtol=1e-4)
    with pytest.raises(ConfigError, match="std: no pattern matches .*dof_left_hip_pitch_04"):
        rewards.posture(context(kbot, data), std={".*knee.*": 0.3})
    with pytest.raises(ConfigError, match="std: a standard deviation must be positive"):
        rewards.posture(context(kbot, data), std={".*": 0.0})


def test_who_is_asked_to_move_need_not_stand_still(kbot):
    ctx = context(kbot, simulation(kbot), memory=commanded(0.1, 0.0, 0.0))
    assert rewards.stand_still(ctx, command="twist", max_command=0.05) == 0
    assert rewards.stand_still(ctx, command="twist", max_command=0.2) > 0


def test_joints_without_a_limit_have_no_soft_one(cartpole):
    data = simulation(cartpole)
    data.joint("hinge").qpos = 50.0
    assert rewards.joint_limits(context(cartpole, data), joints="hinge") == 0
    with pytest.raises(ConfigError, match="'cartpole' do not mirror"):
        rewards.asymmetry(context(cartpole, data))


def test_the_rate_of_the_action_rate_is_a_second_difference(kbot):
    """Of a sequence of actions that starts, as an episode does, from zeros."""
    data = simulation(kbot)
    rng = np.random.default_rng(0)
    action_Ta = np.concatenate([np.zeros((2, 3)), rng.normal(size=(6, 3))])
    term = rewards.action_rate_rate()
    memory = term.init(context(kbot, data, action=np.zeros(3)))
    for t in range(2, len(action_Ta)):
        value, memory = term(context(kbot, data, action=action_Ta[t], prev_action=action_Ta[t - 1]), memory)
        np.testing.assert_allclose(value, np.sum(np.diff(action_Ta[t - 2 : t + 1], n=2, axis=0) ** 2), rtol=1e-5)


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


@pytest.mark.parametrize(
    ("name", "params", "in_metres"),
    [
        ("capture_point", {"feet": "feet"}, {"std": 0.2}),
        ("base_height", {}, {"target": 0.9, "std": 0.3}),
        ("feet_clearance", {"sensor": "feet"}, {"height": 0.1}),
    ],
)
def test_lengths_may_be_shares_of_the_robots_height(kbot_feet, name, params, in_metres):
    ctx = context(kbot_feet, simulation(kbot_feet))
    shares = {key: Share(of_home_height=value / float(kbot_feet.home_qpos[2])) for key, value in in_metres.items()}
    term = getattr(rewards, name)
    value = float(term(ctx, **params, **in_metres))
    assert value > 1e-4 and float(term(ctx, **params, **shares)) == pytest.approx(value, rel=1e-5)
    assert float(term(ctx, **params, **{key: 2 * x for key, x in in_metres.items()})) != pytest.approx(value, rel=1e-2)
