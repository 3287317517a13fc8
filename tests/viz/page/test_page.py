"""Pages in a browser: they do what ksim's C engine does, number by number, and what a hand on them asks for."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from support import chromium
from support.jit import quick_jit
from support.untrained import fresh_policy

from ksim import export
from ksim.config.schema import Config, PatchesCfg
from ksim.envs import Env
from ksim.policies import onnx
from ksim.policies.describe import describe
from ksim.policies.saved import SavedPolicy
from ksim.rl import random_key
from ksim.store import files
from ksim.store.run_dir import RunDir
from ksim.training.experiment import build
from ksim.viz.page import knows, make, npm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.screen,
    pytest.mark.skipif(chromium.executable() is None, reason="apt-get install chromium"),
]

STANDING = (Path(__file__).parents[2] / "deploy" / "kbot_standing.onnx").read_bytes()
TOLERANCE = 1e-4  # of positions (m, rad), observations and actions; 1e-5 was seen
OBS = "ksim.mdp.observations"
PRESENT = {
    "gravity": {"_target_": f"{OBS}.projected_gravity", "history": 3, "scale": 2.0},
    "ang_vel": {"_target_": f"{OBS}.base_ang_vel", "delay": {"range_s": [0.04, 0.04]}, "history": 2},
    "lin_vel": {"_target_": f"{OBS}.base_lin_vel", "scale": [1.0, 2.0, 3.0]},
    "height": {"_target_": f"{OBS}.base_height"},
    "ground": {"_target_": f"{OBS}.ground_scan", "forward": [-1.0, 1.4]},
    "joint_pos": {"_target_": f"{OBS}.joint_pos", "joints": "legs", "clip": [-0.02, 0.03]},
    "joint_vel": {"_target_": f"{OBS}.joint_vel", "joints": "arms", "scale": 0.1},
    "turned": {"_target_": f"{OBS}.joint_pos_cos_sin", "joints": ".*knee.*"},
    "force": {"_target_": f"{OBS}.actuator_force", "joints": "legs", "scale": 0.01},
    "gyro": {"_target_": f"{OBS}.sensor", "name": "imu_gyro"},
    "acceleration": {"_target_": f"{OBS}.sensor", "name": "imu_acc", "scale": 0.01},
    "last_action": {"_target_": f"{OBS}.last_action"},
    "phase": {"_target_": f"{OBS}.phase", "period_s": 0.7},
    "velocity": {"_target_": f"{OBS}.command", "name": "velocity"},
    "goal": {"_target_": f"{OBS}.command", "name": "goal"},
    "gait": {"_target_": f"{OBS}.command", "name": "gait"},
}
VELOCITY, GOAL = [0.4, -0.2, 0.3], [0.1, 0.9]
COMMANDS = {
    "velocity": {
        "_target_": "ksim.mdp.commands.uniform_velocity",
        "x_range": [-0.5, 1.0],
        "y_range": [-0.3, 0.3],
        "yaw_rate_range": [-1.0, 1.0],
        "resampling_time_range_s": [3.0, 3.0],
        "fixed": VELOCITY,
    },
    "goal": {
        "_target_": "ksim.mdp.commands.uniform",
        "low": [-1.0, 0.5],
        "high": [1.0, 2.0],
        "resampling_time_range_s": [3.0, 3.0],
        "fixed": GOAL,
    },
    "gait": {
        "_target_": "ksim.mdp.commands.gait_clock",
        "period_s": 0.6,
        "command": "velocity",
        "resampling_time_range_s": None,
    },
}
GROUND = PatchesCfg(
    kinds={"rough": {"_target_": "ksim.mdp.terrains.rough", "height": [0.05, 0.05]}}, levels=1, size=4.0
)
ACTIONS = {
    "legs": {
        "_target_": "ksim.mdp.actions.stepping_joint_position",
        "joints": "legs",
        "clock": "gait",
        "sensor": "feet",
        "height": 0.05,
        "scale": 0.5,
        "clip": [-0.5, 0.5],
        "delay": {"range_s": [0.015, 0.015]},
    },
    "left": {
        "_target_": "ksim.mdp.actions.relative_joint_position",
        "joints": ".*left_(shoulder|elbow|wrist).*",
        "scale": 0.3,
        "low_pass_hz": 8.0,
    },
    "right": {"_target_": "ksim.mdp.actions.joint_velocity", "joints": ".*right_(shoulder|elbow).*", "scale": 0.5},
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[chromium.Browser]:
    try:
        make.fetch()
    except npm.NpmError as error:
        pytest.skip(str(error))
    with chromium.Browser(tmp_path_factory.mktemp("profile"), webgl=True) as found:
        yield found


def quiet(cfg: Config) -> Config:
    """The task without what is random."""
    cfg.task.observations["actor"]["enable_corruption"] = False
    cfg.task.events = {"reset": {"_target_": "ksim.mdp.events.reset_scene_to_default", "mode": "reset"}}
    return cfg


def play(env: Env, policy: bytes, num_steps: int) -> list[dict[str, Any]]:
    """What the policy saw and did in ksim's C engine, and where that led."""
    act, step = onnx.Session(policy), quick_jit(env.step)
    carry, obs = env.reset(random_key(0, "eval"), 1)
    trace = []
    for _ in range(num_steps):
        seen = np.asarray(obs["actor"])
        action, _ = act(seen)
        carry, output = step(carry, jnp.asarray(action))
        obs = output.obs
        trace.append({"obs": seen[0], "action": action[0], "qpos": np.asarray(carry.envs.physics.qpos[0])})
    return trace


def opened(browser: chromium.Browser, path: Path, policy: bytes, env: Env) -> chromium.Page:
    """The page, started and at rest."""
    path.write_bytes(make.make(policy, env))
    page = browser.open(path.as_uri())
    assert page.evaluate("ksim.then(page => page.pause(true)).then(() => document.body.dataset.state)") == "ready"
    return page


def compare(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for key in ("obs", "action", "qpos"):
        ours, theirs = (np.array([step[key] for step in trace]) for trace in (found, expected))
        assert np.ptp(theirs, axis=0).max() > 0.01, key  # something happens
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0, err_msg=key)


@pytest.fixture(scope="module")
def standing(browser, composed, tmp_path_factory) -> tuple[chromium.Page, Env]:
    env = build(quiet(composed["kbot_standing"])).env
    return opened(browser, tmp_path_factory.mktemp("standing") / "policy.html", STANDING, env), env


def test_its_first_200_steps_are_those_of_the_c_engine(standing):
    page, env = standing
    found = page.evaluate("ksim.then(async page => { await page.reset(); return page.step(200); })")
    compare(found, play(env, STANDING, 200))
    assert page.evaluate("ksim.then(page => page.controller.time)") == pytest.approx(4.0)
    assert page.errors() == []
    assert {"file"} <= {url.partition(":")[0] for url in page.requests()} <= {"file", "blob"}  # nothing from a network


def test_every_term_that_pages_know_is_that_of_the_env(browser, kbot_cfg, tmp_path):
    cfg = quiet(kbot_cfg)
    cfg.algo = dataclasses.replace(cfg.algo, symmetry="none")
    cfg.task.observations["actor"]["terms"] = PRESENT
    cfg.task.commands, cfg.task.actions, cfg.task.terminations = COMMANDS, ACTIONS, {}
    cfg.task.scene.sensors = {"feet": {"_target_": "ksim.mdp.sensors.contact", "bodies": "feet", "against": "floor"}}
    cfg.task.scene.terrain, cfg.task.scene.patches = "patches", GROUND
    targets = {term["_target_"] for term in (*PRESENT.values(), *COMMANDS.values())}
    assert targets == knows.OBSERVATIONS | knows.COMMANDS
    experiment = build(cfg)
    policy = louder(fresh_policy(experiment))
    description = files.jsonable(describe(experiment.cfg, experiment.env, policy))
    saved = SavedPolicy(tmp_path, 0, description, policy)
    knows.check(saved.observation, description)
    model = onnx.make(saved, export.metadata(RunDir(tmp_path), saved))
    expected = play(experiment.env, model, 40)
    page = opened(browser, tmp_path / "policy.html", model, experiment.env)
    half = 0.5 * (expected[0]["obs"][-2] < 0)  # at which of its halves the clock was drawn to begin
    script = """ksim.then(async page => {
      await page.reset();
      const { commands } = page.controller;
      [commands.get("velocity").value, commands.get("goal").value, commands.get("gait").phase] = %s;
      return page.step(40);
    })"""
    compare(page.evaluate(script % json.dumps([VELOCITY, GOAL, half])), expected)
    points = np.random.default_rng(0).uniform(-4.0, 4.0, (100, 2))
    heights = page.evaluate(
        f"ksim.then(p => {points.tolist()}.map(([x, y]) => p.controller.robot.ground.height(x, y)))"
    )
    ground = experiment.env.scene.ground
    assert ground is not None
    np.testing.assert_allclose(heights, ground.height(jnp.asarray(points)), atol=1e-5)
    assert np.ptp(heights) > 0.05
    sliders = page.evaluate("[...document.querySelectorAll('#commands input')].map(i => [+i.min, +i.max, +i.value])")
    assert [slider[:2] for slider in sliders] == [[-0.5, 1], [-0.3, 0.3], [-1, 1], [-1, 1], [0.5, 2]]
    move = "slider.value = -0.25; slider.dispatchEvent(new Event('input'))"
    page.evaluate(f"{{ const slider = document.querySelector('#commands input'); {move}; }}")
    value = page.evaluate("ksim.then(page => page.controller.commands.get('velocity').value[0])")
    assert value == pytest.approx(-0.25, abs=0.01)
    assert page.errors() == []
    page.close()  # it would go on drawing


def louder(policy: Any) -> Any:
    """A fresh policy does next to nothing."""
    return eqx.tree_at(lambda p: p.network.weights, policy, [4 * weight for weight in policy.network.weights])


def state(page: chromium.Page) -> dict[str, Any]:
    return page.evaluate(
        "ksim.then(({ controller, paused, falls, view }) => ({ time: controller.time, paused, falls, "
        "qpos: [...controller.simulation.data.qpos], qvel: [...controller.simulation.data.qvel], "
        "camera: view.camera.position.toArray() }))"
    )


def text(page: chromium.Page, name: str) -> str:
    return page.evaluate(f"document.getElementById('{name}').textContent")


def step(page: chromium.Page, count: int) -> dict[str, Any]:
    page.evaluate(f"ksim.then(page => page.step({count})).then(() => null)")
    return state(page)


def settled(page: chromium.Page) -> None:
    """Wait for a picture of what is so now."""
    page.evaluate("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def test_keys_and_buttons_do_what_they_say(standing):
    page, _ = standing
    page.press("r", "KeyR", 82)
    page.wait_until("ksim.then(page => page.controller.time === 0)")
    page.press("n", "KeyN", 78)
    page.wait_until("ksim.then(page => page.controller.steps === 1)")
    assert state(page)["paused"]
    page.press("ArrowUp", "ArrowUp", 38)  # 0.5 m/s forward
    page.wait_until("ksim.then(page => page.lastPush !== null)")
    pushed = state(page)["qvel"]
    assert pushed[0] == pytest.approx(0.5, abs=0.1) and abs(pushed[1]) < 0.1
    page.click(page.place("left"))
    page.wait_until("ksim.then(page => page.lastPush.left > 0)")
    assert state(page)["qvel"][1] == pytest.approx(pushed[1] + 0.5, abs=1e-6)
    page.press(" ", "Space", 32)
    page.wait_until("ksim.then(page => page.controller.time > 0.5)")
    page.click(page.place("Pause"))
    page.wait_until("ksim.then(page => page.paused)")
    settled(page)
    assert text(page, "pause") == "Play" and float(text(page, "time").split()[0]) > 0.5
    assert float(text(page, "height").split()[0]) == pytest.approx(state(page)["qpos"][2], abs=0.01)
    assert page.errors() == []


def test_a_push_that_is_too_much_is_a_fall(standing):
    page, _ = standing
    page.evaluate("ksim.then(async page => { await page.reset(); await page.push(3, 0); })")
    before = state(page)["falls"]
    assert step(page, 100)["falls"] == before + 1
    settled(page)
    assert re.fullmatch("ended: (fallen|low)", text(page, "fallen"))
    page.evaluate("ksim.then(page => page.reset())")
    settled(page)
    assert text(page, "fallen") == "" and state(page)["falls"] == before + 1


def test_a_drag_pulls_the_robot_and_one_beside_it_turns_the_camera(standing):
    page, _ = standing
    page.evaluate("ksim.then(page => page.reset())")
    alone = step(page, 25)
    page.evaluate("ksim.then(page => page.reset())")
    settled(page)
    width, height = page.evaluate("[document.getElementById('view').clientWidth, innerHeight]")
    middle = (width / 2, 0.35 * height)
    page.mouse("mouseMoved", *middle, buttons=0)
    page.mouse("mousePressed", *middle)
    page.mouse("mouseMoved", middle[0] + 150, middle[1])
    held = page.evaluate("ksim.then(({ controller }) => controller.simulation.pull?.select ?? null)")
    assert held
    settled(page)
    pulled = step(page, 25)
    page.mouse("mouseReleased", middle[0] + 150, middle[1], buttons=0)
    assert np.abs(np.subtract(pulled["qpos"][:2], alone["qpos"][:2])).max() > 0.01
    assert page.evaluate("ksim.then(({ controller }) => controller.simulation.pull)") is None
    assert page.evaluate("ksim.then(({ controller }) => controller.simulation.data.xfrc_applied.every(x => x === 0))")
    before = state(page)
    page.drag((60, 60), (160, 60))
    settled(page)
    after = state(page)
    assert after["qpos"] == before["qpos"]
    assert np.abs(np.subtract(after["camera"], before["camera"])).max() > 0.1
    assert page.errors() == []


def test_the_robot_is_in_the_picture(standing):
    page, _ = standing
    page.evaluate("ksim.then(async page => { await page.reset(); page.view.lookHome(); })")
    settled(page)
    script = """ksim.then(({ view }) => {
      const found = new Set();
      for (let x = -0.95; x < 1; x += 0.05)
        for (let y = -0.95; y < 1; y += 0.05) found.add(view.pick([x, y])?.body);
      return [...found].filter(Boolean).length;
    })"""
    assert page.evaluate(script) > 12  # of 23 bodies, some hidden, some of them but frames
    picture = page.screenshot()
    assert len(picture) > 20_000


def test_licences_are_there_to_be_read(standing):
    page, _ = standing
    page.click(page.place("Licences"))
    page.wait_until("document.getElementById('licence-texts').textContent.length > 1000")
    read = text(page, "licence-texts")
    for mark in ("Apache License", "Microsoft Corporation", "three.js authors", "K-Scale Labs", "MIT License"):
        assert mark in read, mark


def test_what_breaks_it_is_told(standing):
    """Last: it does not go on after this."""
    page, _ = standing
    page.evaluate("""ksim.then(page => {
      page.controller.step = async () => { throw new Error("no <such> tensor"); };
      page.pause(false);
    })""")
    page.wait_until("document.body.dataset.state === 'failed'")
    assert text(page, "status") == "This page has stopped: no <such> tensor"
