"""The world around other people's robots: floors, contact pairs, damping, names, paths."""

import mujoco
import numpy as np
import pytest

from ksim.config.schema import ManagerBasedRlEnvCfg, SceneCfg, SimCfg
from ksim.envs.scene import build_scene
from ksim.errors import ConfigError

# A ball that meets nothing but what an explicit pair says, above a floor of its own.
XML = """
<mujoco>
  <option><flag gravity="enable"/></option>
  <asset>
    <texture type="skybox" builtin="flat" width="8" height="8"/>
    <texture name="floor" type="2d" builtin="flat" width="8" height="8"/>
    <material name="floor" texture="floor"/>
  </asset>
  <worldbody>
    <light name="sun" pos="0 0 3"/>
    <geom name="ground" type="plane" size="1 1 1" pos="0 0 -5" material="floor"/>
    <body name="ball" pos="0 0 0.2">
      <freejoint/>
      <geom name="shell" size="0.1" contype="0" conaffinity="0"/>
      <body name="arm">
        <joint name="swing" axis="0 1 0" damping="2"/>
        <geom size="0.05" pos="0.1 0 0" mass="0.01"/>
      </body>
    </body>
  </worldbody>
  <contact><pair geom1="shell" geom2="ground"/></contact>
  <actuator><motor name="own" joint="swing" gear="7"/></actuator>
  <sensor><distance name="gap" geom1="shell" geom2="ground" cutoff="9"/></sensor>
  <keyframe><key name="lying" qpos="0 0 9 1 0 0 0 0"/></keyframe>
</mujoco>
"""
TABLE = """
mjcf: ball.xml
parts: {base: {bodies: ball}, arms: {joints: swing}, feet: {geoms: shell, bodies: ball}}
joints: {swing: {kp: 1, kd: 1, torque_limit: 1}}
home: {base_pos: [0, 0, 0.5]}
"""


@pytest.fixture
def ball(tmp_path):
    (tmp_path / "ball.xml").write_text(XML)
    (tmp_path / "robot.yaml").write_text(TABLE)
    return tmp_path


def scene(robot, terrain="plane", sensors=None, **sim):
    cfg = SceneCfg(num_envs=1, robot=str(robot), terrain=terrain, sensors=sensors or {})
    return build_scene(ManagerBasedRlEnvCfg(decimation=1, scene=cfg, sim=SimCfg(**sim)))


def test_a_robots_own_floor_gives_way_to_the_tasks(ball):
    """With what its pairs and sensors say of it; its actuators, keyframes, lights and sky have gone."""
    model = scene(ball).model
    planes = [model.geom(i).name for i in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)]
    assert planes == ["floor"] and (model.npair, model.nkey, model.nlight) == (1, 0, 1)
    assert [model.actuator(i).name for i in range(model.nu)] == ["swing"]
    data = mujoco.MjData(model)
    for _ in range(400):
        mujoco.mj_step(model, data)
    assert data.body("ball").xpos[2] == pytest.approx(0.1, abs=0.01)  # it lies on the floor at 0, not at -5
    assert data.sensor("gap").data[0] == pytest.approx(0.0, abs=0.01)


def test_without_terrain_the_robots_own_floor_stays(ball):
    model = scene(ball, "none").model
    assert [model.geom(i).name for i in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)] == ["ground"]


def test_a_floor_that_is_no_plane_is_not_replaced(ball):
    (ball / "ball.xml").write_text(
        XML.replace('name="ground" type="plane"', 'name="floor" type="box"').replace('"ground"', '"floor"')
    )
    with pytest.raises(
        ConfigError, match=r"^task\.scene\.terrain: the MJCF has a geom 'floor' of its own.*'none' keeps"
    ):
        scene(ball)
    assert scene(ball, "none").model.geom("floor").type == mujoco.mjtGeom.mjGEOM_BOX


def test_a_contact_sensor_sees_geoms_that_collide_by_pairs_alone(ball):
    sensors = {"touch": {"_target_": "ksim.mdp.sensors.contact", "bodies": "feet", "against": "floor"}}
    built = scene(ball, sensors=sensors)
    assert built.contacts["touch"].elements == ("ball",)


def test_euler_damps_joints_implicitly(ball):
    """A joint that explicit damping would throw back and forth, growing: I v' = -d v, with h d / I = 100."""
    free = scene(ball, "none", integrator="euler", timestep=0.01, gravity=[0.0, 0.0, 0.0])
    model, dof = free.model, int(free.joint_dof_adr[0])
    model.actuator_gainprm[:], model.actuator_biasprm[:] = 0, 0
    data = mujoco.MjData(model)
    data.qvel[dof] = 1.0
    mujoco.mj_forward(model, data)
    inertia = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, inertia)
    assert 0.01 * model.dof_damping[dof] / inertia[dof, dof] > 50
    expected = np.linalg.solve(inertia + 0.01 * np.diag(model.dof_damping), inertia @ data.qvel - 0.01 * data.qfrc_bias)
    mujoco.mj_step(model, data)
    np.testing.assert_allclose(data.qvel, expected, rtol=1e-6, atol=1e-9)


def test_names_of_a_scene_are_parts_or_regexes(ball):
    built = scene(ball)
    assert built.find_joints("arms", actuated=True).tolist() == built.find_joints("swing").tolist() == [0]
    assert built.find("geom", "feet").tolist() == [built.model.geom("shell").id]
    assert built.find("body", ("base", "world")).tolist() == [0, built.model.body("ball").id]
    with pytest.raises(
        ConfigError, match="no actuated joint matches 'legs'; parts with joints: arms; there are: swing"
    ):
        built.find_joints("legs", actuated=True)


def test_the_robots_measure_of_length(ball):
    assert scene(ball).home_height == 0.5
    with pytest.raises(ConfigError, match="'cartpole' has no floating base"):
        _ = scene("cartpole").home_height
