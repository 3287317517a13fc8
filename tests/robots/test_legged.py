"""Legged robots besides K-Bot against C MuJoCo, and against published figures."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from ksim import robots
from ksim.config.compose import compose
from ksim.envs import make_env
from ksim.envs.scene import Scene, build_scene
from ksim.evaluation import conditions
from ksim.training.checks import checked

HAS_MJLAB = importlib.util.find_spec("mjlab") is not None
needs_mjlab = pytest.mark.skipif(not HAS_MJLAB, reason="no robot files: pip install --no-deps mjlab")
FACTS: dict[str, Any] = json.loads((Path(__file__).parent / "g1_facts.json").read_text())
ROTOR, FREQUENCY = 0.000111842, 2 * np.pi * 10  # of Go1's motors: kg m^2, rad/s


@pytest.mark.skipif(HAS_MJLAB, reason="mjlab is installed")
def test_without_the_package_one_line_says_what_to_install():
    with pytest.raises(Exception, match=r"no installed package 'mjlab'; get it with: pip install --no-deps mjlab"):
        robots.load("g1")


@needs_mjlab
def test_g1_is_what_is_published():
    robot = robots.load("g1")
    assert set(robot.joint_names) == set(FACTS["joints"]) and len(robot.joint_names) == 29
    model = robot.spec.compile()
    for u, name in enumerate(robot.joint_names):
        row = FACTS["joints"][name]
        found = (robot.kp_u[u], robot.kd_u[u], robot.torque_limit_u[u], robot.armature_u[u])
        armature = FACTS["actuator_types"][row["type"]]["armature"]
        np.testing.assert_allclose(
            found, (row["kp"], row["kd"], row["torque_limit"], armature), rtol=1e-6, err_msg=name
        )
        assert robot.home_qpos[model.joint(name).qposadr[0]] == FACTS["home"]["joint_pos"][name]
        partner = robot.joint_names[robot.mirror.joint_index_u[u]]
        if name in FACTS["mirror"]:
            assert [partner, robot.mirror.joint_sign_u[u]] == FACTS["mirror"][name]


@needs_mjlab
def test_go1s_gains_follow_from_its_motors():
    robot = robots.load("go1")
    assert len(robot.joint_names) == 12
    for u, name in enumerate(robot.joint_names):
        gear, torque = (9, 35.55) if "calf" in name else (6, 23.7)
        armature = ROTOR * gear**2
        expected = (armature * FREQUENCY**2, 4 * armature * FREQUENCY, torque, armature)
        found = (robot.kp_u[u], robot.kd_u[u], robot.torque_limit_u[u], robot.armature_u[u])
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)


@pytest.fixture(
    scope="module",
    params=[pytest.param("g1", marks=needs_mjlab), pytest.param("go1", marks=needs_mjlab), "humanoid"],
)
def scene(request) -> Scene:
    return build_scene(compose(["task=standing", f"task.scene.robot={request.param}"]).task)


def lowest_points(scene: Scene, data: mujoco.MjData) -> np.ndarray:
    """Of the feet's spheres and capsules, m."""
    model, geoms = scene.model, scene.find("geom", "feet")
    is_capsule = model.geom_type[geoms] == mujoco.mjtGeom.mjGEOM_CAPSULE
    along = np.abs(data.geom_xmat[geoms].reshape(-1, 3, 3)[:, 2, 2]) * model.geom_size[geoms, 1] * is_capsule
    return data.geom_xpos[geoms, 2] - model.geom_size[geoms, 0] - along


def test_it_stands_on_the_floor_with_its_feet_alone(scene):
    model = scene.model
    data = mujoco.MjData(model)
    data.qpos[:] = scene.home_qpos
    mujoco.mj_kinematics(model, data)
    assert np.abs(lowest_points(scene, data)).max() < 1e-3
    in_range = model.jnt_limited[1:] == 1
    low, high = model.jnt_range[1:][in_range].T
    assert in_range.all() and (low < data.qpos[7:]).all() and (data.qpos[7:] < high).all()
    data.qpos[2] -= 0.002
    mujoco.mj_forward(model, data)
    touching = {int(geom) for contact in data.contact for geom in contact.geom} - {model.geom("floor").id}
    assert touching == set(scene.find("geom", "feet").tolist())


def test_its_home_pose_stands_for_a_second_with_no_action(scene):
    model = scene.model
    data = mujoco.MjData(model)
    data.qpos[:] = scene.home_qpos
    data.ctrl[:] = scene.home_qpos[model.jnt_qposadr[model.actuator_trnid[:, 0]]]
    for _ in range(round(1 / model.opt.timestep)):
        mujoco.mj_step(model, data)
    upright = data.body(scene.robot.base_body).xmat.reshape(3, 3)[2, 2]
    assert upright > 0.95 and data.qpos[2] > 0.8 * scene.home_qpos[2]


def test_the_mirrored_pose_has_mirrored_feet(scene):
    """Of a random pose: each foot is where the other one's image is, however the map was written."""
    model, robot = scene.model, scene.robot
    adr = [model.joint(name).qposadr[0] for name in robot.joint_names]
    sites = scene.find("site", "feet")
    names = [model.site(int(i)).name for i in sites]
    swap = str.maketrans("LR", "RL") if "FR" in names else None
    others = [n[0] + n[1:].translate(swap) if swap else n.replace("left", "r_").replace("right", "left") for n in names]
    partner = [names.index(other.replace("r_", "right")) for other in others]

    def feet(q_u: np.ndarray) -> np.ndarray:
        data = mujoco.MjData(model)
        data.qpos[:] = scene.home_qpos
        data.qpos[adr] = q_u
        mujoco.mj_kinematics(model, data)
        return data.site_xpos[sites]

    rng = np.random.default_rng(0)
    q_u = scene.home_qpos[adr] + rng.uniform(-0.3, 0.3, len(adr))
    image_u = robot.mirror.joint_sign_u * q_u[robot.mirror.joint_index_u]
    np.testing.assert_allclose(feet(image_u), feet(q_u)[partner] * [1, -1, 1], atol=2e-3)
    assert np.abs(feet(q_u) - feet(q_u)[partner] * [1, -1, 1]).max() > 0.02  # the pose is not its own image


WALKING = [pytest.param("g1_walking", 15, marks=needs_mjlab), pytest.param("go1_walking", 12, marks=needs_mjlab)]


@pytest.mark.parametrize(("task", "num_actions"), [*WALKING, ("humanoid_walking", 15), ("kbot_running", 10)])
def test_walkings_terms_fit_it(task, num_actions):
    cfg = checked(compose([f"task={task}"]))
    conditions.check(cfg)
    env = make_env(cfg.task, "mujoco", 1)  # traces every term
    cfg.algo.check(env)  # what it sees and does can be mirrored
    assert env.action_size == num_actions


def test_the_humanoid_has_a_persons_proportions():
    """By Winter (2009): a thigh is 0.245 and a shank 0.246 of the height, the legs 0.322 of the weight."""
    robot = robots.load("humanoid")
    model = robot.spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    height, mass = 1.75, model.body_mass.sum()
    assert len(robot.joint_names) == 21 and mass == pytest.approx(70.0)
    hip, knee, ankle = (data.body(f"left_{name}").xpos[2] for name in ("thigh", "shin", "foot"))
    assert (hip - knee) / height == pytest.approx(0.245, abs=0.005)
    assert (knee - ankle) / height == pytest.approx(0.246, abs=0.005)
    legs = sum(model.body(f"{side}_{name}").mass[0] for side in ("left", "right") for name in ("thigh", "shin", "foot"))
    assert legs / mass == pytest.approx(0.322, abs=0.005)
    head = model.geom("head").id
    top = data.geom_xpos[head, 2] + model.geom_size[head].sum()
    sole = data.geom("left_foot_inner").xpos[2] - model.geom("left_foot_inner").size[0]
    assert top - sole == pytest.approx(height, abs=0.05)
