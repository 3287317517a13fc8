"""A robot that is not in the project, from outside of it: the README's folder, its YAML and its command."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from ksim.config.compose import compose
from ksim.envs.scene import build_scene

REPO = Path(__file__).resolve().parents[2]
(SECTION,) = re.findall(r"### A robot of your own\n(.*?)\n### ", (REPO / "README.md").read_text(), re.DOTALL)
COMMAND = "python -m ksim.run --config-dir my_conf task=humanoid_standing"
SMALL = "eval.episodes=32 eval.video=false eval.interval_steps=null seed=1".split()


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with the README's files."""
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", SECTION, re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder: Path, total_steps: int) -> dict[str, float]:
    """What the final evaluation says after the README's command."""
    assert f"```bash\n{COMMAND}\n```" in SECTION
    _, *arguments = shlex.split(COMMAND)
    command = [sys.executable, *arguments, *SMALL, f"algo.total_steps={total_steps}"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    metrics = folder / "runs" / "humanoid_standing" / "latest" / "eval" / "final" / "metrics.json"
    return json.loads(metrics.read_text())["summary"]


def test_the_readmes_robot_stands_on_the_floor_and_has_its_parts(outside):
    scene = build_scene(compose(["task=humanoid_standing"], config_dir="my_conf").task)
    model, feet = scene.model, scene.find("geom", "feet")
    data = mujoco.MjData(model)
    data.qpos[:] = scene.home_qpos
    mujoco.mj_forward(model, data)
    radius, half_length = model.geom_size[feet, :2].T
    lowest = data.geom_xpos[feet, 2] - half_length * np.abs(data.geom_xmat[feet].reshape(-1, 3, 3)[:, 2, 2]) - radius
    assert len(feet) == 4 and np.abs(lowest).max() < 1e-3
    data.qpos[2] -= 1e-3
    mujoco.mj_forward(model, data)
    touching = {frozenset(model.geom(int(i)).name for i in contact.geom) for contact in data.contact}
    assert {frozenset(("floor", model.geom(int(i)).name)) for i in feet} == touching
    assert len(scene.find_joints("legs", actuated=True)) == 12 and scene.num_actuated == model.nu == 21
    assert scene.robot.mirror is not None


@pytest.mark.training
def test_the_readmes_robot_learns_to_stand(outside):
    before, after = trained(outside, 1), trained(outside, 1_100_000)
    assert before["falls"] == 1.0 and before["episode_length_s"] < 6.0
    assert after["episode_length_s"] > 14.0 and after["falls"] < 0.5  # of episodes of 20 s, with pushes
