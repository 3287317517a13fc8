"""What a page carries, without a browser: the model number for number, the shapes, and what it refuses."""

import copy
import re
from pathlib import Path

import mujoco
import numpy as np
import pytest

import ksim.viz.page
from ksim.envs import make_env
from ksim.envs.scene import build_scene
from ksim.errors import KsimError
from ksim.viz.page import knows, make
from ksim.viz.page.drawing import drawing
from ksim.viz.page.simulation import simulation

JS = Path(ksim.viz.page.__file__).parent / "js"
TETRAHEDRON = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
MJCF = """
<mujoco model="lump">
  <compiler meshdir="shapes"/>
  <asset><mesh name="lump" file="lump.obj"/><mesh name="shell" file="shell.obj" scale="2 2 2"/></asset>
  <worldbody>
    <body name="lump" pos="0 0 1">
      <freejoint/>
      <geom name="lump" type="mesh" mesh="lump" density="1234.56789" pos="0.0123456789 0 0" group="3"/>
      <geom type="mesh" mesh="shell" contype="0" conaffinity="0" rgba=".1 .2 .3 1"/>
      <body name="arm" pos="0.1234567890123 0 0">
        <joint name="hinge" axis="0 1 0"/><geom type="capsule" size=".01 .05" mass="0.1"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def lump(tmp_path) -> Path:
    """A robot of meshes, in a folder of its own."""
    folder = tmp_path / "lump"
    (folder / "shapes").mkdir(parents=True)
    (folder / "lump.xml").write_text(MJCF)
    for name in ("lump", "shell"):
        (folder / "shapes" / f"{name}.obj").write_text(TETRAHEDRON)
    joints = "joints: {hinge: {kp: 1.23456789, kd: 0.1, torque_limit: 1}}"
    (folder / "robot.yaml").write_text(
        f"mjcf: lump.xml\nparts: {{base: {{bodies: lump}}}}\n{joints}\nhome: {{base_pos: [0, 0, 1]}}\n"
    )
    return folder


def rebuilt(parts: dict) -> mujoco.MjModel:
    """What the page does with the parts, here by Python's MuJoCo."""
    model = mujoco.MjModel.from_xml_string(parts["mjcf"], dict(parts["files"]))
    for name, value in parts["exact"].items():
        getattr(model, name)[:] = value
    for name, value in parts["option"].items():
        setattr(model.opt, name, value)
    return model


def fall(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    data.qpos[-1] += 0.1
    mujoco.mj_step(model, data, 300)
    return data.qpos


@pytest.mark.parametrize("robot", ["kbot", "cartpole", "lump"])
def test_the_model_comes_out_number_for_number(robot, kbot_cfg, cartpole_cfg, lump):
    cfg = {"kbot": kbot_cfg, "cartpole": cartpole_cfg, "lump": cartpole_cfg}[robot].task
    cfg.sim.timestep = 0.0012345678
    if robot == "lump":
        cfg.scene.robot, cfg.scene.terrain = f"{lump}/", "plane"
    scene = build_scene(cfg)
    scene.set_control({scene.joint_names[0]: "velocity"})
    parts = simulation(scene)
    model = rebuilt(parts)
    assert model.opt.timestep == 0.0012345678
    for name in (
        "body_mass",
        "body_inertia",
        "body_ipos",
        "body_pos",
        "jnt_range",
        "actuator_gainprm",
        "actuator_biasprm",
    ):
        np.testing.assert_array_equal(getattr(model, name), getattr(scene.model, name), err_msg=name)
    ended = fall(model, scene.home_qpos)
    np.testing.assert_array_equal(ended, fall(scene.model, scene.home_qpos))
    rounded = mujoco.MjModel.from_xml_string(parts["mjcf"], dict(parts["files"]))
    assert not np.array_equal(ended, fall(rounded, scene.home_qpos))


def test_meshes_that_are_looked_at_are_drawn_and_not_simulated(cartpole_cfg, lump):
    cfg = cartpole_cfg.task
    cfg.scene.robot, cfg.scene.terrain = f"{lump}/", "plane"
    assert list(simulation(build_scene(cfg))["files"]) == ["0.obj"]
    model = build_scene(cfg, visual=True).model
    found = drawing(model)
    assert [geom["type"] for geom in found["geoms"]] == ["plane", "mesh", "capsule"]  # the lump is in group 3
    plane, shell, _ = found["geoms"]
    assert plane["body"] == 0 and shell["body"] == model.body("lump").id and shell["data"] == 0
    np.testing.assert_allclose(shell["rgba"], [0.1, 0.2, 0.3, 1.0], atol=1e-6)
    (mesh,) = found["meshes"]
    corners = mesh["vertices"].reshape(-1, 3)[mesh["faces"]]
    assert np.ptp(corners, axis=0) == pytest.approx(np.ptp(model.mesh_vert[-4:], axis=0)) and len(corners) == 12
    normals = mesh["normals"].reshape(-1, 3)[mesh["normal_faces"]]
    np.testing.assert_array_equal(normals, model.mesh_normal[-4:][model.mesh_facenormal[-4:].ravel()])


def test_a_height_field_is_drawn_as_it_lies():
    xml = '<mujoco><asset><hfield name="h" nrow="2" ncol="3" size="1 2 .5 .1" elevation="0 1 2 3 4 5"/></asset>'
    model = mujoco.MjModel.from_xml_string(f'{xml}<worldbody><geom type="hfield" hfield="h"/></worldbody></mujoco>')
    (hfield,) = drawing(model)["hfields"]
    assert hfield["shape"] == [2, 3] and len(hfield["heights"]) == 6


def test_ends_are_those_of_the_task(kbot_cfg, cartpole_cfg):
    kbot = make.ends(make_env(kbot_cfg.task, "mujoco", 1))
    assert kbot == [{"name": "fallen", "lean_rad": 0.5}, {"name": "low", "height": 0.5}]
    assert make.ends(make_env(cartpole_cfg.task, "mujoco", 1)) == [
        {"name": "fallen", "joints": ["hinge"], "limit": 0.8}
    ]


# What a page knows. ---------------------------------------------------------------------------------------------------

TERM = {"name": "x", "description": "", "function": "ksim.mdp.observations.joint_pos", "parameters": {}, "size": 1}
COMMAND = {"name": "go", "description": "", "function": "my.command", "parameters": {}}
LEGS = {"name": "legs", "law": min(knows.LAWS)}
NOTHING = {"commands": [COMMAND], "actions": [LEGS]}


def test_the_javascript_knows_what_python_lets_pass():
    for file, names in (("observations", knows.OBSERVATIONS), ("commands", knows.COMMANDS)):
        text = (JS / f"{file}.js").read_text()
        assert set(re.findall(r'^  "(ksim\.mdp\.\w+\.\w+)"', text, re.MULTILINE)) == names


@pytest.mark.parametrize(
    ("term", "changes", "message"),
    [
        ({"function": "my.eye"}, {}, "the observation 'x' (my.eye)"),
        (
            {"function": "ksim.mdp.observations.command", "parameters": {"name": "go"}},
            {},
            "the command 'go' (my.command)",
        ),
        ({"warp": 1}, {}, "the warp of 'x'"),
        ({}, {"actions": [LEGS | {"twist": 1}]}, "the twist of 'legs'"),
        ({}, {"actions": [LEGS | {"law": "target = 0"}]}, "the law of 'legs'"),
        ({}, {"actions": [LEGS | {"clock": "go"}]}, "the command 'go' (my.command)"),
    ],
)
def test_what_no_page_knows_is_refused_in_one_line(term, changes, message):
    knows.check([TERM], NOTHING)  # a command that nobody sees does no harm
    with pytest.raises(KsimError, match=rf"^page: a page does not know {re.escape(message)}$"):
        knows.check([TERM | term], copy.deepcopy(NOTHING) | changes)
