"""The page in headless Chromium; what it does is looked up in the simulation behind it."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import imageio.v3 as imageio
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import chromium
from support.chromium import until
from support.envs import MDP, kbot_task

from ksim.envs import make_env
from ksim.envs.markers import Arrow, Ghost
from ksim.errors import ConfigError
from ksim.policies.load import Trained
from ksim.rl import Normal, Policy
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.web.scene import Pull
from ksim.viz.viewer.web.viewer import WebViewer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.screen,
    pytest.mark.skipif(chromium.executable() is None, reason="apt-get install chromium"),
]
SIZE = (1200, 800)
KEYS = {  # key: code, keyCode
    " ": ("Space", 32),
    "Backspace": ("Backspace", 8),
    "ArrowUp": ("ArrowUp", 38),
    "ArrowLeft": ("ArrowLeft", 37),
    **{letter: (f"Key{letter.upper()}", ord(letter.upper())) for letter in "cehiklnopqrsu"},
}


class Constant(Policy):
    """The same action in whatever state."""

    action: Any

    def __call__(self, obs, carry=()):
        mean = jnp.broadcast_to(self.action, (*obs.shape[:-1], len(self.action)))
        return Normal(mean, jnp.zeros_like(mean)), carry

    def spec(self):
        return {}

    @classmethod
    def from_spec(cls, spec):
        return cls(jnp.zeros(0))


def trained(value: float, actions: int) -> Trained:
    return Trained(Constant(jnp.full(actions, value)), None, round(1000 * value))


@pytest.fixture(scope="module")
def viewer(tmp_path_factory) -> Iterator[WebViewer]:
    """Two K-Bots that hold their home pose; checkpoints are other angles that all joints are sent to."""
    goal = {"_target_": f"{MDP}.commands.uniform", "low": [-1.0, -1.0], "high": [1.0, 1.0]}
    task = kbot_task(
        rewards={
            "alive": {"_target_": f"{MDP}.rewards.alive", "weight": 1.0},
            "upright": {"_target_": f"{MDP}.rewards.upright", "weight": 2.0},
        },
        commands={"goal": {**goal, "resampling_time_range_s": [1000.0, 1000.0]}},
        terminations={"fallen": {"_target_": f"{MDP}.terminations.bad_orientation", "limit_rad": 3.0}},
    )
    env = make_env(task, "mujoco", 1)
    steps = [100, 200]
    checkpoints: Any = SimpleNamespace(
        steps=lambda: steps, load=lambda which: trained(int(which) / 1000, env.action_size), newer=lambda step: None
    )
    cfg = InteractiveVisualizerConfig(host="127.0.0.1", port=0, paused=True)
    sim = Simulation(env, cfg, trained=trained(0.0, env.action_size), checkpoints=checkpoints, num_envs=2)
    viewer = WebViewer(sim, tmp_path_factory.mktemp("films"))

    def run() -> None:
        while viewer.is_open():
            sim.advance()
            viewer.update()
            time.sleep(0.005)
        viewer.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield viewer
    viewer.stop()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[chromium.Browser]:
    with chromium.Browser(tmp_path_factory.mktemp("profile"), webgl=True, size=SIZE) as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(viewer, browser) -> chromium.Page:
    return opened_page(browser, viewer)


def opened_page(browser: chromium.Browser, viewer: WebViewer) -> chromium.Page:
    """The page, once nothing moves on it any more: what is new fades in."""
    assert viewer.simulation.paused
    page = browser.open(viewer.url)
    page.wait_until("document.body.innerText.includes('Reset')")
    until(lambda: orange(picture(page)) > 200)
    for _ in range(20):
        if np.array_equal(picture(page), picture(page)):
            break
    return page


@pytest.fixture
def page(opened, viewer) -> Iterator[chromium.Page]:
    """The page, with the first robot in its home pose, paused."""
    sim = viewer.simulation
    sim.paused, sim.selected = True, 0
    sim.suspend(False)
    sim.release()
    sim.keyframe("home")
    opened.click(opened.place("Drive"))  # a test that failed may have left another tab open
    yield opened
    assert complaints(opened) == []
    assert sim.error is None


def complaints(page: chromium.Page) -> list[str]:
    """What the console shows; the one about a listener is viser's own, at a drag, and without consequence."""
    return [error for error in page.errors() if "preventDefault inside passive event listener" not in error]


def press(page: chromium.Page, key: str, shift: bool = False) -> None:
    page.press(key.upper() if shift and len(key) == 1 else key, *KEYS[key], shift)


def picture(page: chromium.Page) -> np.ndarray:
    return np.asarray(imageio.imread(io.BytesIO(page.screenshot())), int)[..., :3]


def orange(pixels: np.ndarray) -> int:
    """How many pixels have the colour of K-Bot's joints; nothing else on the page does."""
    width = pixels.shape[1]
    r, g, b = (pixels[:, width // 12 : 5 * width // 8, i] for i in range(3))  # beside the panel
    return int(((r > 180) & (r - g > 40) & (g - b > 40)).sum())


def torso(page: chromium.Page) -> tuple[float, float]:
    """A place on the robot's torso: above the middle, where the camera looks."""
    return page.evaluate("window.innerWidth") / 2, page.evaluate("window.innerHeight") * 0.37


def test_the_robot_is_seen_where_it_is(page, viewer):
    sim = viewer.simulation
    until(lambda: orange(picture(page)) > 200)
    away = np.array(sim.keyframes["home"])
    away[2] += 50.0
    sim.place(away, np.zeros(sim.model.nv))
    until(lambda: orange(picture(page)) == 0)
    sim.keyframe("home")
    until(lambda: orange(picture(page)) > 200)


def test_the_page_asks_nobody_else(page, viewer):
    assert all(url.startswith((viewer.url, "data:", "blob:")) for url in page.requests())


def test_buttons_pause_step_and_reset(page, viewer):
    sim = viewer.simulation
    page.click(page.place("Resume"))
    until(lambda: not sim.paused)
    page.wait_until("document.body.innerText.includes('Pause')")
    until(lambda: sim.pose.episode_step[0] > 5)
    page.click(page.place("Pause"))
    until(lambda: sim.paused)
    before = sim.pose.episode_step[0]
    page.click(page.place("Step"))
    until(lambda: sim.pose.episode_step[0] == before + 1)
    page.click(page.place("Reset"))
    until(lambda: sim.pose.episode_step[0] == 0)


def test_keys_do_what_they_do_in_the_window(page, viewer):
    sim, base, dof = (
        viewer.simulation,
        viewer.simulation.env.scene.base_qpos_adr,
        viewer.simulation.env.scene.base_dof_adr,
    )

    def pos() -> np.ndarray:
        return np.array(sim.pose.qpos[0][base : base + 3])

    def vel() -> np.ndarray:
        return np.array(sim.pose.qvel[0][dof : dof + 6])

    start = pos()
    for key, moved in (
        ("ArrowUp", [0.01, 0, 0]),
        ("ArrowLeft", [0.01, -0.01, 0]),
        ("p", [0.01, -0.01, 0.01]),
        ("l", [0.01, -0.01, 0]),
    ):
        press(page, key)
        until(lambda moved=moved: np.allclose(pos() - start, moved, atol=1e-6))
    for key, axis in (("q", 3), ("o", 1), ("i", 2)):
        sim.keyframe("home")
        before = np.array(sim.pose.qpos[0][base + 3 : base + 7])
        press(page, key)
        until(
            lambda axis=axis, before=before: abs(np.array(sim.pose.qpos[0][base + 3 : base + 7]) - before)[axis] > 0.004
        )
    sim.keyframe("home")
    press(page, "ArrowUp", shift=True)
    until(lambda: np.allclose(vel(), [0.1, 0, 0, 0, 0, 0], atol=1e-6))
    press(page, "q", shift=True)
    until(lambda: np.allclose(vel(), [0.1, 0, 0, 0, 0, 0.1], atol=1e-6))
    press(page, "s")
    until(lambda: sim.pose.is_suspended[0] and not vel().any())
    press(page, "s")
    until(lambda: not sim.pose.is_suspended[0])
    count = sim.pose.episode_step[0]
    press(page, "n")
    until(lambda: sim.pose.episode_step[0] == count + 1)
    press(page, "Backspace")
    until(lambda: sim.pose.episode_step[0] == 0)
    goal = np.array(sim.pose.commands["goal"][0])
    press(page, "c")
    until(lambda: not np.array_equal(sim.pose.commands["goal"][0], goal))
    press(page, " ")
    until(lambda: not sim.paused)
    press(page, " ")
    until(lambda: sim.paused)


def slider(page: chromium.Page) -> tuple[float, float]:
    """Where the handle of the first one is."""
    return page.evaluate("(() => {const b = document.querySelector('[role=slider]').getBoundingClientRect();"
                         " return [b.x + b.width / 2, b.y + b.height / 2]})()")  # fmt: skip


def tick(page: chromium.Page, label: str) -> None:
    """Click the box before some words."""
    boxes = "[...document.querySelectorAll('input[type=checkbox]')].map(e => e.getBoundingClientRect())"
    y = page.place(label)[1]
    page.click((page.evaluate(f"{boxes}.find(box => box.width > 0).x") + 5, y))


def test_a_slider_holds_a_command(page, viewer):
    sim = viewer.simulation
    box = slider(page)
    page.drag(box, (box[0] + 400, box[1]))
    until(lambda: sim.pose.commands["goal"][0][0] == pytest.approx(1.0))
    page.drag((0, 0), (1, 1))
    sim.paused = False
    steps = sim.history.total
    until(lambda: sim.history.total > steps + 3)
    assert sim.pose.commands["goal"][0][0] == pytest.approx(1.0)


def test_a_dragged_body_is_pulled_towards_the_mouse_and_then_let_go(page, viewer):
    sim = viewer.simulation
    base = sim.env.scene.base_qpos_adr
    sim.paused = False
    x, y = torso(page)
    before = np.array(sim.pose.qpos[0][base : base + 2])
    dragged(page, x, y, -250)
    until(lambda: np.abs(sim.pose.pull).max() > 5.0)
    pull = np.array(sim.pose.pull[0])
    assert np.count_nonzero(pull.any(axis=1)) == 1
    force = pull[:, :3].sum(axis=0)[:2]
    until(lambda: (sim.pose.qpos[0][base : base + 2] - before) @ force > 0.02 * np.linalg.norm(force))
    page.mouse("mouseReleased", x - 250, y, buttons=0)
    until(lambda: not sim.pose.pull.any())


def dragged(page: chromium.Page, x: float, y: float, by: float) -> None:
    """The left button pressed and the mouse moved to the right, in steps; it is not released."""
    page.mouse("mouseMoved", x, y, buttons=0)
    page.mouse("mousePressed", x, y)
    for part in np.linspace(0.1, 1.0, 10):
        page.mouse("mouseMoved", x + part * by, y)
        time.sleep(0.03)


def test_another_checkpoint_is_played_and_another_one_against_it(page, viewer):
    sim = viewer.simulation
    for label, option in (("checkpoint", "100"), ("against", "200")):
        choose(page, label, option)
    until(lambda: sim.step_of_policy == 100)
    until(viewer._policies.ghost)
    sim.paused = False
    steps = sim.history.total
    until(lambda: sim.history.total > steps + 20)
    sim.paused = True
    ghost = np.array(viewer._policies.ghost()[0].qpos)
    joints = sim.env.scene.joint_qpos_adr
    assert np.abs(ghost[joints] - sim.pose.qpos[0][joints]).max() > 0.01
    choose(page, "against", "none")
    until(lambda: not viewer._policies.ghost())


def choose(page: chromium.Page, label: str, option: str) -> None:
    x, y = page.place(label)
    page.click((x + 150, y))
    page.click(page.place(option, "[role=option]"))


def test_the_other_tabs_and_a_film(page, viewer):
    sim = viewer.simulation
    sim.paused = False
    page.click(page.place("Plots"))
    page.wait_until(
        "document.body.innerText.includes('upright') && document.querySelectorAll('.uplot canvas').length >= 5"
    )
    page.click(page.place("Look"))
    page.wait_until("document.body.innerText.includes('contact forces')")
    for label in ("contact forces", "target pose"):
        tick(page, label)
    until(lambda: {type(marker) for marker in viewer._looking.markers()} == {Arrow, Ghost})
    page.click(page.place("Record"))
    page.wait_until("document.body.innerText.includes('Stop and save')")
    start = sim.time_s
    until(lambda: sim.time_s > start + 0.5)
    page.click(page.place("Stop and save"))
    until(lambda: list(viewer._recorder._folder.glob("view_*.mp4")))
    (film,) = viewer._recorder._folder.glob("view_*.mp4")
    frames = imageio.imread(film, plugin="FFMPEG")
    assert len(frames) >= 12 and frames[0].std() > 10
    page.click(page.place("Drive"))


def test_envs_stand_side_by_side_and_the_one_that_is_pulled_is_taken_in_hand(page, viewer):
    sim, scene = viewer.simulation, viewer._scene
    viewer._looking._count.value = 2
    viewer._asked.put(lambda: None)
    until(lambda: len(scene._robots) == 2)
    body, at, data = next(iter(scene._robots[0]._frames)), [], mujoco.MjData(sim.model)
    for env in (0, 1):
        sim.fill(data, env)
        at.append(np.array(data.xpos[body]))
    first, second = (np.array(robot._frames[body].position) for robot in scene._robots)
    np.testing.assert_allclose(second - first, scene._offset_R3[1] + at[1] - at[0], atol=1e-5)
    assert np.linalg.norm(scene._offset_R3[1]) > 1.0
    scene.on_pull(Pull(1, body, at[1], at[1] + [0.2, 0.0, 0.0]))
    until(lambda: sim.selected == 1 and sim.pose.pull[1].any() and not sim.pose.pull[0].any())
    scene.on_pull(None)
    until(lambda: not sim.pose.pull.any())
    viewer._looking._count.value = 1
    viewer._asked.put(lambda: None)
    until(lambda: not scene._robots[1]._root.visible)


def test_a_twin_with_the_same_policy_does_the_same(page, viewer):
    sim = viewer.simulation
    sim.use("100")
    same, other = sim.twin(sim.checkpoints.load("100")), sim.twin(sim.checkpoints.load("200"))
    before = np.array(sim.pose.qpos)
    for _ in range(3):
        same.step()
        other.step()
    np.testing.assert_array_equal(sim.pose.qpos, before)
    for _ in range(3):
        sim.step()
    np.testing.assert_array_equal(same.pose.qpos, sim.pose.qpos)
    assert np.abs(other.pose.qpos - sim.pose.qpos).max() > 1e-3


def test_what_a_term_raises_is_shown_and_pauses(page, viewer, monkeypatch):
    sim = viewer.simulation

    def broken(*_: object) -> None:
        raise ConfigError("task.rewards.upright: my_rewards.py:12: ValueError: <not> today")

    with monkeypatch.context() as patched:
        patched.setattr(sim._programs, "step", broken)
        sim.paused = False
        page.wait_until(
            "document.body.innerText.includes('task.rewards.upright: my_rewards.py:12: ValueError: <not> today')"
        )
        assert sim.paused
    sim.step()
    assert sim.error is None


def test_two_browsers_and_one_that_drops_out_while_it_drags(page, viewer, tmp_path):
    sim = viewer.simulation
    with chromium.Browser(tmp_path / "profile", webgl=True, size=SIZE) as other_browser:
        other = opened_page(other_browser, viewer)
        other.click(other.place("Resume"))
        page.wait_until("document.body.innerText.includes('Pause')")
        assert not sim.paused
        x, y = torso(other)
        dragged(other, x, y, -180)
        until(lambda: bool(sim.pose.pull.any()))
        assert complaints(other) == []
    until(lambda: not sim.pose.pull.any())
    page.click(page.place("Pause"))
    until(lambda: sim.paused)


SERVER = """
import signal
from support.envs import cartpole_task
from ksim.envs import make_env
from ksim.viz.viewer.browser import show
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.simulation import Simulation

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
show(Simulation(make_env(cartpole_task(), "mujoco", 1), InteractiveVisualizerConfig(host="127.0.0.1", port=0)))
"""


def is_anybody_left(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_closing_it_leaves_no_process(sent, browser):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )
    said = server.stdout.readline()
    port = int(said.split()[1].rpartition(":")[2])
    page = browser.open(said.split()[1])
    page.wait_until("document.body.innerText.includes('Reset')")
    server.send_signal(sent)
    server.wait(chromium.PATIENCE_S)  # it may compile its first step, which takes no signal
    until(lambda: not is_anybody_left(server.pid))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert said.startswith("open http://127.0.0.1:")
    page.close()


def test_an_address_that_is_none_is_told_in_a_line():
    simulation: Any = SimpleNamespace(cfg=InteractiveVisualizerConfig(host="no.such.host.invalid"))
    with pytest.raises(ConfigError, match=r"view.host: this machine has no address 'no.such.host.invalid' \("):
        WebViewer(simulation)
