"""Loading robots: the built-in ones, folders, MJCFs of others, and what a user may get wrong."""

import struct
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from ksim import robots
from ksim.errors import ConfigError

ARM_XML = """
<mujoco>
  <worldbody>
    <body name="base">
      <joint name="shoulder" axis="0 1 0" armature="0.02"/>
      <geom name="upper" type="capsule" fromto="0 0 0 0.3 0 0" size="0.02"/>
      <site name="imu"/>
      <body name="fore" pos="0.3 0 0">
        <joint name="elbow" axis="0 1 0"/>
        <geom name="hand" type="capsule" fromto="0 0 0 0.3 0 0" size="0.02"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""

ARM_YAML = """
mjcf: arm.xml
parts:
  base: {bodies: base}
  imu: {sites: imu}
  hands: {geoms: [hand]}
joints:
  elbow: {kp: 20, kd: 1, torque_limit: 3, armature: 0.01}
  shoulder: {kp: 30, kd: 2, torque_limit: 4}
home:
  joint_pos: {elbow: 0.5, shoulder: -0.25}
"""


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    folder = tmp_path / "arm"
    folder.mkdir()
    (folder / "arm.xml").write_text(ARM_XML)
    (folder / "robot.yaml").write_text(ARM_YAML)
    return folder


def error(name: object, mjcf: object = None) -> str:
    with pytest.raises(ConfigError) as caught:
        robots.load(str(name), None if mjcf is None else str(mjcf))
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_stl(path: Path) -> None:
    """A tetrahedron as a binary STL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]], dtype="<f4")
    faces = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]
    body = b"".join(struct.pack("<3f", 0, 0, 0) + corners[list(face)].tobytes() + b"\0\0" for face in faces)
    path.write_bytes(bytes(80) + struct.pack("<I", len(faces)) + body)


def foreign_kbot(folder: Path, name: str = "robot.mjcf") -> Path:
    """The K-Bot as others publish it: torque motors, meshes, and a floor, a light and keyframes of its own."""
    spec = robots.load("kbot").spec
    for joint in spec.joints[1:]:
        joint.armature = 0.5
        spec.add_actuator(name=f"{joint.name}_ctrl", target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    obj = mujoco.mjtObj
    spec.add_sensor(
        name="motor_torque",
        type=mujoco.mjtSensor.mjSENS_ACTUATORFRC,
        objtype=obj.mjOBJ_ACTUATOR,
        objname="dof_left_knee_04_ctrl",
    )
    spec.worldbody.add_geom(name="ground", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 1])
    spec.worldbody.add_geom(name="crate", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.1, 0.1, 0.1], pos=[3, 0, 0.1])
    spec.worldbody.add_light(name="sun", pos=[0, 0, 3])
    spec.add_pair(name="foot_on_ground", geomname1="ground", geomname2="LFootBushing_GPF_1517_12_collision_capsule_0")
    spec.add_sensor(
        name="to_ground",
        type=mujoco.mjtSensor.mjSENS_GEOMDIST,
        objtype=obj.mjOBJ_GEOM,
        objname="crate",
        reftype=obj.mjOBJ_GEOM,
        refname="ground",
    )
    spec.add_key(name="lying", qpos=np.full(27, 0.1), ctrl=np.zeros(20))
    write_stl(folder / "meshes" / "torso.stl")
    xml = spec.to_xml()
    for old, new in (
        ("<compiler ", '<compiler meshdir="meshes" '),
        ("</asset>", '<mesh name="shell" file="torso.stl"/></asset>'),
        ('<site name="imu_site"', '<geom class="visual" type="mesh" mesh="shell"/><site name="imu_site"'),
    ):
        assert xml.count(old) == 1
        xml = xml.replace(old, new)
    path = folder / name
    path.write_text(xml)
    return path


def test_names() -> None:
    assert {"cartpole", "g1", "go1", "kbot"} <= set(robots.names())


def test_importing_robots_does_not_import_jax() -> None:
    code = "import sys, ksim.robots; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["cartpole", "kbot"])
def test_a_built_in_robot_leaves_the_scene_to_others(name: str) -> None:
    model = robots.load(name).spec.compile()
    assert model.nu == 0
    assert model.nlight == 0
    assert not np.any(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)


def test_each_load_has_a_spec_of_its_own() -> None:
    first = robots.load("kbot")
    robots.add_actuators(first.spec, first)
    assert robots.load("kbot").spec.compile().nu == 0


def test_a_folder(arm: Path) -> None:
    robot = robots.load(str(arm))
    assert robot.name == "arm"
    assert robot.joint_names == ("elbow", "shoulder")  # the table's order, not the model's
    np.testing.assert_array_equal(robot.kp_u, [20, 30])
    np.testing.assert_array_equal(robot.home_qpos, [-0.25, 0.5])
    np.testing.assert_array_equal(robot.spec.compile().dof_armature, [0.02, 0.01])  # the MJCF's, and the table's
    np.testing.assert_array_equal(robot.armature_u, [0.01, 0.02])
    assert (robot.is_floating_base, robot.mirror, robot.imu_site) == (False, None, "imu")
    assert robot.parts["hands"].patterns("geom") == ("hand",)


@pytest.mark.parametrize("name", ["robot.mjcf", "robot.xml"])
def test_a_foreign_mjcf_keeps_the_robot_and_loses_the_scene(name: str, tmp_path: Path) -> None:
    path = foreign_kbot(tmp_path, name)
    original = mujoco.MjModel.from_xml_path(str(path))
    assert (original.nu, original.nkey, original.nlight, original.npair) == (20, 1, 1, 1)
    robot = robots.load("kbot", str(path))
    own = robots.load("kbot")
    model = robot.spec.compile()
    assert (model.nu, model.nkey, model.nlight, model.npair, model.nmesh) == (0, 0, 0, 1, 1)
    geoms = {model.geom(i).name for i in range(model.ngeom)}
    assert {"crate", "ground"} <= geoms  # whether a plane stays is the scene's to say
    sensors = {model.sensor(i).name for i in range(model.nsensor)}
    assert {"imu_gyro", "to_ground"} <= sensors and "motor_torque" not in sensors
    np.testing.assert_array_equal(model.dof_armature[6:], own.armature_u)  # the table's, not the file's
    np.testing.assert_array_equal(robot.home_qpos, own.home_qpos)  # not a keyframe's
    assert (robot.imu_site, robot.parts) == (own.imu_site, own.parts)
    robots.add_actuators(robot.spec, robot)
    assert robot.spec.compile().nu == 20


def test_a_foreign_mjcf_may_lack_sites_and_have_more_joints(arm: Path) -> None:
    other = arm.parent / "other.xml"
    other.write_text(
        ARM_XML.replace('<site name="imu"/>', "")
        .replace('name="hand"', 'name="gripper"')
        # a box that is thrown at the arm: its free joint comes first in qpos
        .replace("<worldbody>", '<worldbody><body name="box" pos="1 0 2"><freejoint/><geom size="0.1"/></body>')
    )
    robot = robots.load(str(arm), str(other))
    assert robot.imu_site is None
    np.testing.assert_array_equal(robot.home_qpos, [1, 0, 2, 1, 0, 0, 0, -0.25, 0.5])


def test_unknown_robot() -> None:
    message = error("kbott")
    assert message.startswith("task.scene.robot: unknown robot 'kbott' (did you mean 'kbot'?)")
    assert "cartpole, " in message and ", kbot" in message


def test_a_folder_without_a_table(tmp_path: Path) -> None:
    assert error(tmp_path) == f"task.scene.robot: no robot.yaml in {tmp_path}"


def test_no_such_mjcf(tmp_path: Path) -> None:
    assert error("kbot", tmp_path / "a.xml") == f"task.scene.mjcf: no such file: {tmp_path / 'a.xml'}"


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("<mujoco><worldbody>", "XML parse error"),
        ("<mujoco><worldbody><bodi/></worldbody></mujoco>", "Schema violation: unrecognized element"),
        ('<mujoco><asset><mesh name="a" file="absent.stl"/></asset></mujoco>', "no joint matches"),
    ],
)
def test_a_broken_mjcf(xml: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.xml"
    path.write_text(xml)
    message = error("kbot", path)
    assert message.startswith(f"task.scene.mjcf: {path}")
    assert words in message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "robot.mjcf"
    path.write_bytes(bytes([0xFF, 0xFE, 0xFF]))
    assert error("kbot", path).startswith(f"task.scene.mjcf: {path}: ")


def test_a_missing_mesh_in_mujocos_words(tmp_path: Path) -> None:
    path = foreign_kbot(tmp_path)
    (tmp_path / "meshes" / "torso.stl").unlink()
    message = error("kbot", path)
    assert message.startswith(f"task.scene.mjcf: {path}: ") and "torso.stl" in message


def test_missing_joints_are_named_with_what_there_is(arm: Path) -> None:
    other = arm.parent / "other.xml"
    other.write_text(ARM_XML.replace('name="elbow"', 'name="elbow_1"'))
    assert error(arm, other) == (
        f"task.scene.mjcf: {other}: joints.elbow: no joint matches 'elbow' (did you mean 'elbow_1'?); "
        "there are: shoulder, elbow_1"
    )


def test_missing_base_body_and_floating_base(arm: Path) -> None:
    other = arm.parent / "other.xml"
    other.write_text(ARM_XML.replace('body name="base"', 'body name="root"'))
    assert "parts.base: no body matches 'base'" in error(arm, other)
    other.write_text(ARM_XML.replace('<body name="base">', '<body name="base"><freejoint/></body><body name="arm">'))
    assert "body 'base' has a free joint" in error(arm, other)


@pytest.mark.parametrize("file", ["meshes/torso.stl", "robot.mjcf"])
def test_a_git_lfs_pointer(file: str, tmp_path: Path) -> None:
    path = foreign_kbot(tmp_path)
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    name = Path(file).name
    assert error("kbot", path) == (
        f"task.scene.mjcf: {name} is a git-lfs pointer, not the file itself: run 'git lfs pull' in {tmp_path}"
    )


def test_many_git_lfs_pointers_are_one_message(tmp_path: Path) -> None:
    path = foreign_kbot(tmp_path)
    meshes = "".join(f'<mesh name="m{i}" file="m{i}.stl"/>' for i in range(5))
    path.write_text(path.read_text().replace("</asset>", f"{meshes}</asset>"))
    for i in range(5):
        (tmp_path / "meshes" / f"m{i}.stl").write_text("version https://git-lfs.github.com/spec/v1\n")
    message = error("kbot", path)
    assert "m0.stl, m1.stl, m2.stl and 2 more are git-lfs pointers" in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kp: 20", "kpp: 20", "joints.elbow.kpp: no such key (did you mean 'kp'?)"),
        ("kp: 20, ", "", "joints.elbow: 'kp' is missing"),
        ("kp: 20", "kp: many", "joints.elbow.kp: must be a number, not 'many'"),
        ("kp: 20", "kp: true", "joints.elbow.kp: must be a number, not True"),
        ("kp: 20", "kp: .inf", "joints.elbow.kp: must be 0 or more and finite, not inf"),
        ("kp: 20", "kp: -1", "joints.elbow.kp: must be 0 or more, not -1"),
        ("  elbow: {kp", "  elbo: {kp", "joints.elbo: no joint matches 'elbo' (did you mean 'elbow'?); there are: "),
        ("  elbow: {kp", "  el.*|sh.*: {kp", "joints.shoulder: the joint 'shoulder' is in two rows"),
        ("  elbow: {kp", "  el(: {kp", "joints.el(: joint pattern 'el(' is not a regular expression"),
        ("  base: {bodies: base}\n", "", "'parts.base' is missing: {bodies: <the body that the others hang on>}"),
        ("{bodies: base}", "{bodies: '.*e'}", "parts.base: must name one body, not base, fore"),
        ("{bodies: base}", "{bodys: base}", "parts.base.bodys: no such key (did you mean 'bodies'?)"),
        ("{geoms: [hand]}", "{geoms: [hand, fist]}", "parts.hands: no geom matches 'fist'; there are: upper, hand"),
        ("{geoms: [hand]}", "{geoms: {hand: 1}}", "parts.hands.geoms: must be a string or a list of strings, not {"),
        ("hands: {geoms: [hand]}", "hands: {}", "the part 'hands' names nothing"),
        ("hands: {", "'[LR]hand': {", "the name of a part is made of letters, digits and _: not '[LR]hand'"),
        ("elbow: 0.5, ", "elbows: 0.5, ", "home.joint_pos.elbows: no joint matches 'elbows' (did you mean 'elbow'?)"),
        ("home:", "home:\n  base_pos: [0, 1]", "home.base_pos: must be a list of 3 numbers or null, not [0, 1]"),
        ("home:", "home:\n  base_pos: [0, 0, 1]", "body 'base' has no free joint"),
        ("home:", "mirror: {elbow: [elbow, -1]}\nhome:", "mirror: no mirrored joint for shoulder"),
        ("home:", "mirror: {elbow: [sholder, -1]}\nhome:", "no actuated joint 'sholder' (did you mean 'shoulder'?)"),
        ("home:", "mirror: {elbow: [shoulder, 2]}\nhome:", "'mirror.elbow' must be [joint, sign] with sign 1 or -1"),
        (
            "home:",
            "mirror: {elbo: [shoulder, 1]}\nhome:",
            "mirror.elbo: no actuated joint 'elbo' (did you mean",
        ),
        (
            "home:",
            "mirror: {'(.*)': ['\\2', 1]}\nhome:",
            "mirror.(.*): '\\\\2' is no partner of this regular exp",
        ),
        ("home:", "mirror: {elbow: shoulder}\nhome:", "mirror.elbow: must be a list of 2 values, not 'shoulder'"),
        (
            "home:",
            "mirror: {elbow: [shoulder, -1], shoulder: [elbow, 1]}\nhome:",
            "joint 'shoulder' has two mirrored joints",
        ),
        ("mjcf: arm.xml", "mjcf: leg.xml", "no such file: "),
        ("mjcf: arm.xml", "mjcf: package://no_such_package/a.xml", "there is no installed package 'no_such_package'"),
        ("mjcf: arm.xml", "mjcf: package://os.path/a.xml", "there is no installed package 'os.path'"),
        ("sites: imu", "sites: imus", "parts.imu: no site matches 'imus' (did you mean 'imu'?); there are: imu"),
        ("mjcf: arm.xml", "mjcf: [arm.xml", "expected ',' or ']'"),
        ("mjcf: arm.xml", "mjcff: arm.xml", "mjcff: no such key (did you mean 'mjcf'?)"),
        (ARM_YAML, "- 1\n", "must be a mapping, not [1]"),
    ],
)
def test_a_wrong_table(old: str, new: str, words: str, arm: Path) -> None:
    assert old in ARM_YAML
    (arm / "robot.yaml").write_text(ARM_YAML.replace(old, new, 1))
    message = error(arm)
    assert message.startswith(f"task.scene.robot: {arm}/robot.yaml: ")
    assert words in message


def test_a_mjcf_of_an_installed_package(arm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found, not imported: reading a robot runs no code of the package."""
    package = arm.parent / "carrier"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError")
    (arm / "arm.xml").rename(package / "models" / "arm.xml")
    monkeypatch.syspath_prepend(arm.parent)
    (arm / "robot.yaml").write_text(ARM_YAML.replace("arm.xml", "package://carrier/models/arm.xml"))
    assert robots.load(str(arm)).joint_names == ("elbow", "shoulder")
    assert robots.load(str(arm), "package://carrier/models/arm.xml").name == "arm"
    (arm / "robot.yaml").write_text(ARM_YAML.replace("arm.xml", "package://carrier/arm.xml"))
    assert error(arm).endswith(f"no such file: {package / 'arm.xml'}")


def test_the_folder_of_the_mjcf_may_be_one_that_the_user_sets(arm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = arm.parent / "menagerie" / "arm"
    elsewhere.mkdir(parents=True)
    (arm / "arm.xml").rename(elsewhere / "arm.xml")
    (arm / "robot.yaml").write_text(ARM_YAML.replace("arm.xml", "${oc.env:MENAGERIE}/arm/arm.xml"))
    monkeypatch.delenv("MENAGERIE", raising=False)
    assert "'MENAGERIE'" in error(arm)
    monkeypatch.setenv("MENAGERIE", str(arm.parent / "nothing"))
    assert error(arm).endswith(f"no such file: {arm.parent}/nothing/arm/arm.xml")
    monkeypatch.setenv("MENAGERIE", str(arm.parent / "menagerie"))
    assert robots.load(str(arm)).joint_names == ("elbow", "shoulder")


def test_a_missing_package_is_named_with_what_to_install(arm: Path) -> None:
    (arm / "robot.yaml").write_text(ARM_YAML.replace("arm.xml", "package://no_such_package/a.xml"))
    assert error(arm).endswith("no installed package 'no_such_package'; get it with: pip install no_such_package")
    with (arm / "robot.yaml").open("a") as file:
        file.write("install: pip install --no-deps meshes\n")
    assert error(arm).endswith("'no_such_package'; get it with: pip install --no-deps meshes")


def test_the_geoms_that_collide_may_be_chosen(arm: Path) -> None:
    with (arm / "robot.yaml").open("a") as file:
        file.write("collisions: hand\n")
    model = robots.load(str(arm)).spec.compile()
    colliding = [model.geom(i).name for i in range(model.ngeom) if model.geom_contype[i] or model.geom_conaffinity[i]]
    assert colliding == ["hand"] and not model.geom_contype.any() and model.geom("hand").priority[0] == 1


def test_a_folder_is_told_from_a_name_by_its_slash(arm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(arm.parent)
    assert robots.load("./arm").name == "arm"
    assert error("arm").startswith("task.scene.robot: unknown robot 'arm' (did you mean the folder './arm'?); ")
    assert error("./leg") == "task.scene.robot: no such folder: leg"


def test_rows_by_regex_and_a_home_pose_of_the_mjcf(arm: Path) -> None:
    """The order is the rows', and within a row the model's."""
    row = "elbow: {kp: 20, kd: 1, torque_limit: 3, armature: 0.01}"
    table = ARM_YAML.replace(row, '".*": {kp: 9, kd: 1, torque_limit: 3}')
    table = table.replace("  shoulder: {kp: 30, kd: 2, torque_limit: 4}\n", "")
    table = table.replace("joint_pos: {elbow: 0.5, shoulder: -0.25}", 'joint_pos: {"e.*": 0.5}')
    (arm / "robot.yaml").write_text(table)
    (arm / "arm.xml").write_text(ARM_XML.replace('armature="0.02"', 'armature="0.02" ref="90"'))
    robot = robots.load(str(arm))
    assert robot.joint_names == ("shoulder", "elbow")
    np.testing.assert_allclose(robot.home_qpos, [np.pi / 2, 0.5])
    np.testing.assert_array_equal(robot.armature_u, [0.02, 0.0])


def test_keyframes_of_the_mjcf_are_kept_by_name(tmp_path):
    """The scene drops them; a viewer shows them."""
    text = (Path(robots.__file__).parent / "cartpole" / "cartpole.xml").read_text()
    keys = '<keyframe><key name="down" qpos="0.2 3.1"/><key qpos="1 1"/><key name="at rest"/></keyframe></mujoco>'
    (tmp_path / "keyed.xml").write_text(text.replace("</mujoco>", keys))
    robot = robots.load("cartpole", str(tmp_path / "keyed.xml"))
    assert robot.keyframes["down"].tolist() == [0.2, 3.1]
    assert not robot.spec.keys and "" not in robot.keyframes
