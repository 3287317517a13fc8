"""How fast trained policies stand and walk in the window, in the browser and in a page, and how they answer a pull.

It is told by the clock, so it runs by hand, on a machine with nothing else to do:
`python -m pytest -m screen -n 0 -s tests/viz/viewer/measure_players.py`. What is asserted besides is the CPU that a
simulated second costs the thread that simulates.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support import chromium
from support.players import DEPLOY, FORWARD, make_env
from support.window import Person, virtual_display

from ksim.viz.page import make, npm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.screen,
    pytest.mark.skipif(chromium.executable() is None, reason="apt-get install chromium"),
]
MEASURED_S = 5.0  # of simulated time
AFFORDABLE = 0.6  # CPU seconds for a simulated second
FORCE, PULLED_S = (0.0, 40.0, 0.0), 0.5  # N, s
STEP_S = 0.02


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with virtual_display() as name:
        yield name


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[chromium.Browser]:
    with chromium.Browser(tmp_path_factory.mktemp("profile"), webgl=True) as found:
        yield found


@pytest.mark.parametrize(("viewer", "task"), [("window", "kbot_standing"), ("browser", "kbot_walking")])
def test_in_the_viewer(viewer, task, display, browser, tmp_path, capsys):
    person = Person(display if viewer == "window" else None, tmp_path, "support.players", f"{viewer}_{task[5:]}")
    try:
        url = person.look()["url"]
        if url is not None:
            page = browser.open(url)
            page.wait_until("document.body.innerText.includes('Reset')")
        start = person.wait(lambda s: s["time_s"] > 2.0, "the start")
        clock = time.monotonic()
        end = person.wait(lambda s: s["time_s"] > start["time_s"] + MEASURED_S, "the end")
        passed = end["time_s"] - start["time_s"]
        cpu = (end["cpu_s"] - start["cpu_s"]) / passed
        say(capsys, f"{viewer}, {task}: {passed / (time.monotonic() - clock):.2f}x, {cpu:.2f} CPU s per simulated s")
        assert end["episode_step"] * STEP_S == pytest.approx(end["time_s"], abs=0.1)  # it has not fallen
        if task == "kbot_walking":
            walked = np.subtract(end["qpos"], start["qpos"])[:2]  # wherever it was told to head
            assert np.linalg.norm(walked) > 0.6 * FORWARD[0] * passed
        person.pull("torso", FORCE)
        pulled = person.wait(lambda s: s["time_s"] > end["time_s"] + PULLED_S, "the pull")
        person.pull("torso", (0.0, 0.0, 0.0))
        after = person.wait(lambda s: s["time_s"] > pulled["time_s"] + 2.0, "the rest")
        say(capsys, f"  pulled: by {pulled['qpos'][1] - end['qpos'][1]:.3f} m, legs {reaction(end, pulled):.3f} rad")
        assert pulled["qpos"][1] - end["qpos"][1] > 0.01
        assert reaction(end, pulled) > 0.03
        assert after["episode_step"] > pulled["episode_step"] > end["episode_step"]
        assert cpu < AFFORDABLE
        if url is not None:
            page.close()
    finally:
        person.leave()


def reaction(before: dict[str, Any], after: dict[str, Any]) -> float:
    """How far the target of a joint has moved at most, rad."""
    return float(np.abs(np.subtract(after["ctrl"], before["ctrl"])).max())


def say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}", flush=True)


def test_in_a_page(browser, tmp_path, capsys):
    task = "kbot_walking"
    try:
        make.fetch()
    except npm.NpmError as error:
        pytest.skip(str(error))
    path = tmp_path / "policy.html"
    path.write_bytes(make.make((DEPLOY / f"{task}.onnx").read_bytes(), make_env(task)))
    page = browser.open(path.as_uri())
    page.call("Performance.enable", timeDomain="threadTicks")
    page.evaluate(
        f"ksim.then(page => {{ const c = page.controller.commands.get('velocity'); if (c) c.value = {FORWARD}; }})"
    )

    def look() -> dict[str, Any]:
        metrics = {m["name"]: m["value"] for m in page.call("Performance.getMetrics")["metrics"]}
        found = page.evaluate(
            "ksim.then(page => ({ time_s: page.controller.time, rate: page.rate, falls: page.falls,"
            " qpos: [...page.controller.simulation.data.qpos], ctrl: [...page.controller.simulation.data.ctrl] }))"
        )
        return {**found, "cpu_s": metrics["TaskDuration"]}

    def wait(time_s: float) -> dict[str, Any]:
        page.wait_until(f"ksim.then(page => page.controller.time > {time_s})")
        return look()

    start = wait(2.0)
    clock = time.monotonic()
    end = wait(start["time_s"] + MEASURED_S)
    passed = end["time_s"] - start["time_s"]
    cpu = (end["cpu_s"] - start["cpu_s"]) / passed
    say(capsys, f"page, {task}: {passed / (time.monotonic() - clock):.2f}x, {cpu:.2f} s of its thread per simulated s")
    assert end["qpos"][0] - start["qpos"][0] > 0.6 * FORWARD[0] * passed
    page.evaluate("""ksim.then(({ controller: { simulation } }) => {
      const torso = simulation.id("BODY", "torso"), at = simulation.data.xpos.slice(3 * torso, 3 * torso + 3);
      simulation.grab(torso, [0, 0, 0]);
      simulation.drag([at[0], at[1] + 0.1, at[2]]);
    })""")
    pulled = wait(end["time_s"] + PULLED_S)
    page.evaluate("ksim.then(({ controller }) => controller.simulation.release())")
    after = wait(pulled["time_s"] + 2.0)
    say(capsys, f"  pulled: by {pulled['qpos'][1] - end['qpos'][1]:.3f} m, legs {reaction(end, pulled):.3f} rad")
    assert pulled["qpos"][1] - end["qpos"][1] > 0.01
    assert reaction(end, pulled) > 0.03
    assert after["falls"] == 0
    assert page.errors() == []
    page.close()
