"""A mirror map that is not the robot's is noticed when the robot is loaded."""

import shutil
from pathlib import Path

import pytest
import yaml

from ksim import robots
from ksim.errors import ConfigError

KBOT = Path(robots.__file__).parent / "kbot"
KNEE = "dof_left_knee_04"
LEFT = [name for name in robots.load("kbot").joint_names if "_left_" in name]


def load(tmp_path, change_table=None, change_xml=None):
    """K-Bot from a folder of its own, with another table or MJCF."""
    table = yaml.safe_load((KBOT / "robot.yaml").read_text())
    table["mirror"] = {joint: [joint.replace("left", "right"), -1] for joint in LEFT}
    if change_table:
        change_table(table)
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    shutil.copy(KBOT / "kbot.xml", tmp_path)
    if change_xml:
        change_xml(tmp_path / "kbot.xml")
    return robots.load(str(tmp_path))


@pytest.mark.parametrize("joint", LEFT)
def test_a_wrong_sign_is_noticed(joint, tmp_path):
    def flip(table):
        partner, sign = table["mirror"][joint]
        table["mirror"][joint] = [partner, -sign]
        table["home"]["joint_pos"][partner] *= -1  # so that the home pose agrees with the map

    pair = joint.replace("left", "(left|right)")
    wrong = rf"mirror\.{pair}: in the home pose, ({pair} and {pair} turn the other way|the image of .* m away from)"
    with pytest.raises(ConfigError, match=wrong):
        load(tmp_path, flip)


def test_pairs_that_lie_too_far_apart_are_noticed(tmp_path):
    """Hip and shoulder pitch turn about parallel axes: only where they are tells them apart."""

    def cross(table):
        for part, other in (("hip_pitch_04", "shoulder_pitch_03"), ("shoulder_pitch_03", "hip_pitch_04")):
            table["mirror"][f"dof_left_{part}"] = [f"dof_right_{other}", -1]
        for side in ("left", "right"):
            table["home"]["joint_pos"][f"dof_{side}_hip_pitch_04"] = 0.0

    with pytest.raises(ConfigError) as error:
        load(tmp_path, cross)
    told = "mirror.dof_left_hip_pitch_04: in the home pose, the image of dof_left_hip_pitch_04 is 0."
    assert told in str(error.value) and "m away from dof_right_shoulder_pitch_03" in str(error.value)


def test_a_body_that_sits_elsewhere_on_one_side_is_noticed(tmp_path):
    def move(path):
        xml = path.read_text()
        old = '<body name="KD_D_401R" pos="'
        assert xml.count(old) == 1
        before, after = xml.split(old)
        x, rest = after.split(" ", 1)
        path.write_text(f"{before}{old}{float(x) + 0.05} {rest}")

    with pytest.raises(ConfigError, match=r"mirror\.dof_.*: in the home pose, the image of .* is 0\.05"):
        load(tmp_path, None, move)


def test_an_axis_that_leans_is_noticed(tmp_path):
    def lean(path):
        xml = path.read_text()
        old = 'name="dof_right_knee_04" class="robstride_04" axis="0 0 -1"'
        assert xml.count(old) == 1
        path.write_text(xml.replace(old, old.replace("0 0 -1", "0.3 0 -0.95")))

    with pytest.raises(ConfigError, match=r"the axis of dof_(left|right)_knee_04 is 0\.3\d rad away from the image of"):
        load(tmp_path, None, lean)


def test_a_home_pose_that_is_no_image_of_itself_is_noticed(tmp_path):
    def bend(table):
        table["home"]["joint_pos"][KNEE] += 0.1

    with pytest.raises(ConfigError, match=rf"mirror\.{KNEE}: in the home pose, {KNEE} is at 0\.97.* at -0\.87.* -1"):
        load(tmp_path, bend)


def test_pairs_one_by_one_and_by_a_regex_are_the_same(tmp_path):
    one_by_one, by_regex = load(tmp_path).mirror, robots.load("kbot").mirror
    assert one_by_one.joint_index_u.tolist() == by_regex.joint_index_u.tolist()
    assert one_by_one.joint_sign_u.tolist() == by_regex.joint_sign_u.tolist() == [-1.0] * 20
