"""Action terms: the controls they ask for, and the actuators that follow them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import plain
from support.terms import commanded, context, simulation

from ksim.config.compose import compose
from ksim.envs.managers import ActionManager
from ksim.envs.scene import build_scene
from ksim.envs.settings import ActionSettings
from ksim.envs.terms import resolve
from ksim.errors import ConfigError
from ksim.mdp import actions


def controls(scene, data, action, memory=None, **terms):
    """Controls of four substeps that action terms ask for."""
    resolved = resolve("task.actions", terms, ActionSettings)
    manager = ActionManager(resolved, scene, 4)
    ctrl_Su, _ = manager.compute(
        context(scene, data, memory=memory), jnp.asarray(action, jnp.float32), jax.random.key(0)
    )
    assert ctrl_Su.shape == (4, scene.model.nu)
    assert (ctrl_Su == ctrl_Su[0]).all()  # held over the substeps
    return np.asarray(ctrl_Su[0])


def home(scene):
    return np.array([scene.home_qpos[scene.model.joint(scene.model.actuator(u).name).qposadr[0]] for u in range(20)])


def ranges(scene):
    return np.array([scene.model.joint(scene.model.actuator(u).name).range for u in range(20)]).T


def test_positions_are_offsets_from_home_within_the_ranges(kbot):
    action = np.linspace(-8, 8, 20)
    ctrl_u = controls(kbot, simulation(kbot), action, all={"_target_": actions.joint_position, "scale": 0.25})
    lower, upper = ranges(kbot)
    expected = np.clip(home(kbot) + 0.25 * action, lower, upper)
    assert (expected == lower).any() and (expected == upper).any()
    np.testing.assert_allclose(ctrl_u, expected, atol=1e-6)


def test_a_soft_limit_narrows_the_ranges(kbot):
    term = {"_target_": actions.joint_position, "scale": 1.0, "soft_limit": 0.8}
    lower, upper = ranges(kbot)
    margin = 0.1 * (upper - lower)
    for sign, limit in ((-1, lower + margin), (1, upper - margin)):
        np.testing.assert_allclose(
            controls(kbot, simulation(kbot), np.full(20, sign * 9.0), all=term), limit, atol=1e-5
        )


def test_scale_by_strength_asks_for_the_same_share_of_torque_everywhere(kbot):
    """With scale 0.5, an action of 1 moves a resting joint's target to where its torque is half the limit."""
    term = {"_target_": actions.joint_position, "scale": 0.5, "scale_by_strength": True}
    data = plain.make(kbot.model, kbot.home_qpos)
    ctrl_u = controls(kbot, data, np.ones(20), all=term)
    plain.forward(kbot.model, data, ctrl_u)
    inside = ctrl_u < ranges(kbot)[1] - 1e-6
    assert inside.sum() > 15
    np.testing.assert_allclose((data.actuator_force / kbot.model.actuator_forcerange[:, 1])[inside], 0.5, atol=1e-5)


def test_scales_by_joint_and_joints_without_a_term(kbot):
    """Patterns give each joint its scale, the last match wins; joints that no term drives hold their home position."""
    term = {
        "_target_": actions.joint_position,
        "joints": ".*left_(hip|knee).*",
        "scale": {".*": 0.1, ".*knee.*": 0.4},
    }
    ctrl_u = controls(kbot, simulation(kbot), [1.0, 1.0, 1.0, 1.0], legs=term)
    np.testing.assert_allclose(ctrl_u - home(kbot), [0.1, 0.1, 0.1, 0.4] + [0] * 16, atol=1e-6)


def test_terms_concatenate_in_their_order(kbot):
    knees = {"_target_": actions.joint_position, "joints": ".*knee.*", "scale": 0.1}
    ankles = {"_target_": actions.joint_position, "joints": ".*left_ankle.*", "scale": 1.0}
    ctrl_u = controls(kbot, simulation(kbot), [0.1, 0.2, 0.3], ankles=ankles, knees=knees)
    names = [kbot.model.actuator(u).name for u in range(20)]
    change = dict(zip(names, ctrl_u - home(kbot), strict=True))
    assert change["dof_left_ankle_02"] == pytest.approx(0.1)
    assert change["dof_left_knee_04"] == pytest.approx(0.02, rel=1e-4)
    assert change["dof_right_knee_04"] == pytest.approx(0.03, rel=1e-4)


def test_relative_positions_start_from_the_measured_ones(kbot):
    data = simulation(kbot)
    ctrl_u = controls(kbot, data, np.ones(20), all={"_target_": actions.relative_joint_position, "scale": 0.2})
    measured = np.array([data.joint(kbot.model.actuator(u).name).qpos[0] for u in range(20)])
    np.testing.assert_allclose(ctrl_u, np.clip(measured + 0.2, *ranges(kbot)), atol=1e-6)


@pytest.mark.parametrize("kind", ["velocity", "effort"])
def test_velocity_and_effort(kind):
    """The actuators are built for the control: torque kd (target - velocity), or the torque itself within its limit."""
    cfg = compose(["task=kbot_standing"]).task
    joints, scale = ".*left_wrist.*|.*left_elbow.*", {".*elbow.*": 2.0, ".*wrist.*": 1.5}
    cfg.actions = {"arm": {"_target_": f"ksim.mdp.actions.joint_{kind}", "joints": joints, "scale": scale}}
    terms = resolve("task.actions", cfg.actions, ActionSettings)
    scene = build_scene(cfg)
    scene.set_control(ActionManager(terms, scene, 4).control)
    elbow, wrist = (scene.model.actuator(f"dof_left_{name}").id for name in ("elbow_02", "wrist_00"))
    data = simulation(scene)
    data.qvel[:] *= 0.1
    for action in ([0.3, -0.5], [30.0, -50.0]):
        ctrl_u = controls(scene, data, action, **cfg.actions)
        plain.forward(scene.model, data, ctrl_u)
        for u, a in ((elbow, 2.0 * action[0]), (wrist, 1.5 * action[1])):
            name = scene.model.actuator(u).name
            limit, kd = scene.robot.torque_limit_u[u], scene.robot.kd_u[u]
            torque = a if kind == "effort" else kd * (a - data.joint(name).qvel[0])
            assert data.actuator_force[u] == pytest.approx(np.clip(torque, -limit, limit), rel=1e-4)
    rest = [u for u in range(20) if u not in (elbow, wrist)]
    np.testing.assert_allclose(ctrl_u[rest], home(scene)[rest], atol=1e-6)


def test_feet_are_lifted_straight_up_when_the_clock_says_so(kbot_feet):
    """With the targets as the pose, C MuJoCo has the foot that is due 8 cm higher, where it was and as level."""
    kbot = kbot_feet
    feet = [kbot.model.body(name).id for name in ("LFootBushing_GPF_1517_12", "RFootBushing_GPF_1517_12")]
    legs = {"joints": ".*_(hip|knee|ankle)_.*", "clock": "gait", "sensor": "feet", "height": 0.08}
    term = {"_target_": actions.stepping_joint_position, **legs}
    home = plain.forward(kbot.model, plain.make(kbot.model, kbot.home_qpos), np.zeros(kbot.model.nu))
    for clock, up in (
        ((0.0, 1.0), [0.08, 0.0]),
        ((0.0, -1.0), [0.0, 0.08]),
        ((1.0, 0.0), [0, 0]),
        ((0.0, 0.0), [0, 0]),
    ):
        memory = commanded(*clock, name="gait")
        target_u = controls(kbot, simulation(kbot), np.zeros(10), memory=memory, a=term)
        qpos = kbot.home_qpos.copy()
        qpos[kbot.joint_qpos_adr[: kbot.num_actuated]] = target_u
        data = plain.forward(kbot.model, plain.make(kbot.model, qpos), np.zeros(kbot.model.nu))
        rise = data.xpos[feet] - home.xpos[feet]
        np.testing.assert_allclose(rise, np.outer(up, [0, 0, 1]), atol=2e-3)
        np.testing.assert_allclose(data.xmat[feet], home.xmat[feet], atol=0.02)


@pytest.mark.parametrize("action", [-9.0, 9.0])
def test_what_an_action_adds_to_a_step_stays_within_the_ranges(kbot_feet, action):
    term = {"_target_": actions.stepping_joint_position, "clock": "gait", "sensor": "feet", "height": 0.08}
    for clock in ((0.0, 1.0), (0.0, -1.0)):  # either foot in the middle of its swing
        target_u = controls(
            kbot_feet, simulation(kbot_feet), np.full(20, action), memory=commanded(*clock, name="gait"), a=term
        )
        np.testing.assert_allclose(target_u, ranges(kbot_feet)[int(action > 0)], atol=1e-6)


MISTAKES = [
    (
        {
            "_target_": actions.stepping_joint_position,
            "clock": "gait",
            "sensor": "feet",
            "height": 5.0,
            "joints": ".*",
        },
        r"task\.actions\.a: joints: cannot lift 'LFootBushing_GPF_1517_12' by 5 m from the home pose",
    ),
    ({"joints": ".*kne"}, r"task\.actions\.a: no actuated joint matches '\.\*kne'.*there are: dof_left_hip"),
    ({"joints": "(knee"}, r"task\.actions\.a: actuated joint pattern '\(knee' is not a regular expression"),
    (
        {"joints": ".*knee.*", "scale": {".*left.*": 1.0}},
        r"task\.actions\.a: scale: no pattern matches dof_right_knee_04",
    ),
]


@pytest.mark.parametrize(("params", "message"), MISTAKES)
def test_mistakes_name_the_term(kbot_feet, params, message):
    with pytest.raises(ConfigError, match=message):
        controls(kbot_feet, simulation(kbot_feet), [0.0], a={"_target_": actions.joint_position} | params)


def test_a_joint_has_one_driver(kbot):
    term = {"_target_": actions.joint_position, "joints": ".*knee.*"}
    with pytest.raises(ConfigError, match=r"task\.actions\.b: joint 'dof_left_knee_04' is already driven"):
        controls(kbot, simulation(kbot), [0.0], a=term, b=term)


def test_an_action_term_returns_an_action(kbot):
    with pytest.raises(ConfigError, match=r"task\.actions\.a: must return a JointAction, not float"):
        controls(kbot, simulation(kbot), [0.0], a={"_target_": lambda scene: 1.0})
