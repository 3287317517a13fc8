"""The window on a virtual display: every key, the mouse, the plot, and how it ends."""

import os
import re
import time
from pathlib import Path

import mujoco
import numpy as np
import pytest
from PIL import Image
from support.chromium import PATIENCE_S
from support.window import Person, virtual_display

pytestmark = [pytest.mark.slow, pytest.mark.screen]

README = Path(__file__).parents[3] / "README.md"
TASK = """
from ksim.envs import make_env
from ksim.viz.viewer import InteractiveVisualizerConfig, MujocoInteractiveVisualizer
from support.envs import MDP, kbot_task

def task():
    rewards = {"alive": {"_target_": f"{MDP}.rewards.alive", "weight": 1.0}}
    rewards |= {"upright": {"_target_": f"{MDP}.rewards.upright", "weight": 2.0}}
    command = {"_target_": f"{MDP}.commands.uniform", "low": [-1.0], "high": [1.0]}
    command["resampling_time_range_s"] = [5.0, 5.0]
    return kbot_task(rewards=rewards, commands={"speed": command})

class Viewer(MujocoInteractiveVisualizer):
    def __init__(self):
        super().__init__(InteractiveVisualizerConfig(paused=True, plot_path="plots"))

    def setup_environment(self):
        return make_env(task(), "mujoco", 1)
"""
PICTURE = "plots/rewards.png"
GEOMETRY = ("getwindowgeometry", "--shell")


@pytest.fixture(scope="module")
def display():
    with virtual_display() as name:
        yield name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("window")
    (folder / "my_task.py").write_text(TASK)
    return folder


@pytest.fixture(scope="module")
def person(display, folder):
    person = Person(display, folder, "my_task", "Viewer")
    try:
        person.look()
        person.focus()
        yield person
    finally:
        person.child.kill()
        person.child.wait()


@pytest.fixture
def paused(person):
    """The robot in its home pose, paused, keys change the position."""
    now = person.look()
    if not now["paused"]:
        person.press("space", lambda s: s["paused"])
    if now["is_suspended"]:
        person.press("s", lambda s: not s["is_suspended"])
    if now["velocity"]:
        person.press("v", lambda s: not s["velocity"])
    person.press("r", lambda s: s["qpos"][3] == 1.0 and not any(s["qvel"]))
    return person


MOVES = [("Up", 0, 1), ("Down", 0, -1), ("Right", 1, 1), ("Left", 1, -1), ("p", 2, 1), ("l", 2, -1)]
TURNS = [("q", 2, 1), ("e", 2, -1), ("semicolon", 0, -1), ("apostrophe", 0, 1), ("period", 1, -1), ("slash", 1, 1)]


def test_keys_that_move_the_base(paused):
    """Each by a centimetre, at once, while it is paused."""
    for key, axis, sign in MOVES:
        before = paused.look()
        after = paused.press(key, lambda s, b=before: s["qpos"] != b["qpos"])
        change = np.subtract(after["qpos"], before["qpos"])
        wanted = np.zeros(len(change))
        wanted[axis] = 0.01 * sign
        np.testing.assert_allclose(change, wanted, atol=1e-5, err_msg=key)
        assert after["time_s"] == before["time_s"]


def test_keys_that_turn_the_base(paused):
    """Each by 0.01 rad, compared with MuJoCo's own quaternion of that turn."""
    for key, axis, sign in TURNS:
        paused.press("r", lambda s: s["qpos"][3] == 1.0)
        after = paused.press(key, lambda s: s["qpos"][3] != 1.0 or any(s["qpos"][4:7]))
        wanted = np.zeros(4)
        mujoco.mju_axisAngle2Quat(wanted, np.eye(3)[axis], 0.01 * sign)
        np.testing.assert_allclose(after["qpos"][3:7], wanted, atol=1e-6, err_msg=key)


def test_after_v_the_same_keys_change_the_velocity(paused):
    paused.press("v", lambda s: s["velocity"])
    for key, axis, sign in [*MOVES, *((key, axis + 3, sign) for key, axis, sign in TURNS)]:
        before = paused.look()
        after = paused.press(key, lambda s, b=before: s["qvel"] != b["qvel"])
        change = np.subtract(after["qvel"], before["qvel"])
        wanted = np.zeros(len(change))
        wanted[axis] = 0.1 * sign
        np.testing.assert_allclose(change, wanted, atol=1e-5, err_msg=key)
        assert after["qpos"] == before["qpos"]


def test_space_pauses_and_n_takes_one_step(paused):
    time_s = paused.look()["time_s"]
    after = paused.press("n", lambda s: s["time_s"] > time_s)
    assert after["time_s"] == pytest.approx(time_s + 0.02) and after["paused"]
    paused.press("space", lambda s: not s["paused"])
    paused.wait(lambda s: s["time_s"] > time_s + 0.1, "time")
    stopped = paused.press("space", lambda s: s["paused"])["time_s"]
    time.sleep(0.3)
    assert paused.look()["time_s"] == stopped


def test_s_suspends_the_robot_in_place(paused):
    height = paused.look()["qpos"][2]
    for _ in range(3):
        paused.do("key", "p")
    held = paused.press("s", lambda s: s["is_suspended"])["qpos"][:7]
    assert held[2] == pytest.approx(height + 0.03, abs=1e-4)
    for _ in range(5):
        time_s = paused.look()["time_s"]
        now = paused.press("n", lambda s, t=time_s: s["time_s"] > t)
    np.testing.assert_allclose(now["qpos"][:7], held, atol=1e-6)
    paused.press("s", lambda s: not s["is_suspended"])
    time_s = now["time_s"]
    assert paused.press("n", lambda s: s["time_s"] > time_s)["qpos"][2] < held[2]


def test_r_puts_back_joints_and_orientation(paused):
    home = paused.look()["qpos"]
    paused.press("q", lambda s: s["qpos"][6] > 0)
    paused.press("Up", lambda s: s["qpos"][0] > home[0])
    for _ in range(3):
        time_s = paused.look()["time_s"]
        moved = paused.press("n", lambda s, t=time_s: s["time_s"] > t)
    assert moved["qpos"][7:] != home[7:]
    back = paused.press("r", lambda s: s["qpos"][3] == 1.0 and not any(s["qvel"]))
    np.testing.assert_allclose(back["qpos"][3:], home[3:], atol=1e-6)
    np.testing.assert_allclose(back["qpos"][:2], moved["qpos"][:2], atol=1e-6)


def test_h_shows_the_next_keyframe_and_backspace_a_new_episode(paused):
    paused.press("Up", lambda s: s["qpos"][0] != 0.0)
    shown = paused.press("h", lambda s: s["message"] == "keyframe home")
    assert shown["qpos"][:2] == [0.0, 0.0]
    time_s = shown["time_s"]
    paused.press("n", lambda s: s["time_s"] > time_s and s["episode_step"] > 0)
    assert paused.press("BackSpace", lambda s: s["episode_step"] == 0)["message"] == "a new episode"


def test_c_draws_the_next_command(paused):
    before = paused.look()["commands"]["speed"]
    assert -1.0 <= paused.press("c", lambda s: s["commands"]["speed"] != before)["commands"]["speed"][0] <= 1.0


def test_minus_and_equal_change_the_speed(paused):
    assert paused.press("minus", lambda s: s["speed"] != 1.0)["speed"] == 0.5
    assert paused.press("equal", lambda s: s["speed"] != 0.5)["speed"] == 1.0


def test_k_shows_the_keys(paused):
    paused.press("k", lambda s: s["help"])
    paused.press("k", lambda s: not s["help"])


def test_no_key_leaves_one_of_mujocos_own_switches_flipped(paused):
    """MuJoCo's viewer draws shadows, contacts, ... or not at the same letters."""
    before = paused.look()["switches"]
    for key in "snprehcvklq":
        paused.do("key", key)
    paused.do("key", "slash", "apostrophe", "semicolon")
    paused.wait(lambda s: s["switches"] == before, "the switches")
    time.sleep(0.5)
    assert paused.look()["switches"] == before
    paused.do("key", "f")  # a key that is MuJoCo's alone
    paused.wait(lambda s: s["switches"] != before, "MuJoCo's own key")
    paused.do("key", "f")


def test_the_mouse_pulls_a_body(paused):
    paused.press("h", lambda s: s["message"] == "keyframe home")
    found = dict(line.split("=") for line in paused.do("search", "--name", "MuJoCo", *GEOMETRY).split())
    paused.do("mousemove", str(int(found["WIDTH"]) // 2), str(int(found["HEIGHT"]) // 3))
    for _ in range(20):  # two clicks are one double click within a quarter of a second, as the viewer measures it
        paused.do("click", "--repeat", "2", "--delay", "20", "1")
        time.sleep(0.7)
        if paused.look()["selected"]:
            break
    paused.wait(lambda s: s["selected"] > 0, "the double click")
    paused.do("keydown", "ctrl", "mousedown", "3")
    for i in range(40):
        paused.do("mousemove_relative", "--", "12" if i < 10 else "1", "0")
        time.sleep(0.3)
        if np.any(paused.look()["pull"]):
            break
    pulled = paused.wait(lambda s: np.any(s["pull"]), "the pull")
    assert np.abs(pulled["pull"]).max() > 1.0
    time_s = pulled["time_s"]
    after = paused.press("n", lambda s: s["time_s"] > time_s)
    assert np.abs(after["qvel"]).max() > 0.0
    paused.do("mouseup", "3", "keyup", "ctrl")
    paused.wait(lambda s: not np.any(s["pull"]), "the release")


def test_the_plot_is_drawn_anew_while_it_is_paused(paused, folder):
    picture = folder / PICTURE
    deadline = time.monotonic() + PATIENCE_S
    seen = set()
    while len(seen) < 3 and time.monotonic() < deadline:
        if picture.exists():
            seen.add(picture.stat().st_mtime_ns)
            with Image.open(picture) as image:  # whole whenever one looks
                image.load()
        time.sleep(0.02)
    assert len(seen) == 3
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    blue = (pixels[..., 2] > 150) & (pixels[..., 0] < 80)
    assert blue.sum() > 50 and pixels.shape[1] > 800


def test_it_ends_with_its_window(person, folder):
    """Last: Ctrl-Q, as MuJoCo's viewer has it."""
    (worker,) = (Path(f"/proc/{person.child.pid}/task/{person.child.pid}/children")).read_text().split()
    person.do("key", "ctrl+q")
    assert person.child.wait(timeout=PATIENCE_S) == 0
    assert not os.path.exists(f"/proc/{worker}")
    assert "Traceback" not in (folder / "stderr").read_text()
    assert not list((folder / "plots").glob(".*"))


def test_the_readmes_viewer_and_its_own_key(display, tmp_path):
    (text,) = re.findall(r"```python\n# my_viewer\.py\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "my_viewer.py").write_text(text + "\n\ndef viewer():\n    return MyViewer()\n")
    person = Person(display, tmp_path, "my_viewer", "viewer")
    try:
        person.look()
        person.focus()
        pulled = person.press("g", lambda s: np.any(s["pull"]))
        assert [5.0, 0.0, 0.0] in [row[:3] for row in pulled["pull"]]
        person.do("key", "ctrl+q")
        assert person.child.wait(timeout=PATIENCE_S) == 0
    finally:
        person.child.kill()
        person.child.wait()
