"""An algorithm that is not in the project, from outside of it: the README's module, its YAML and its command."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.runs import final_state, lines_without_time

from ksim.store.run_dir import RunDir

REPO = Path(__file__).resolve().parents[2]
(SECTION,) = re.findall(r"### An algorithm of your own\n(.*?)\n### ", (REPO / "README.md").read_text(), re.DOTALL)
COMMAND = "python -m ksim.run --config-dir my_conf task=cartpole_balance algo=random_search"
SMALL = "algo.num_envs=8 algo.rollout_length=20 log.interval_iterations=2 physics.threads=1 task.episode_length_s=0.6"
SHORT = f"{SMALL} seed=1 eval.episodes=8 eval.video=false eval.interval_steps=null"
CHUNK = 8 * 20 * 2  # env steps of a log interval


@pytest.fixture
def outside(tmp_path):
    """A folder with the README's files."""
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", SECTION, re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def call(folder: Path, command: str) -> str:
    """What a command prints there, ksim being importable and nothing else of the project."""
    _, *arguments = shlex.split(command)
    environment = os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def newest(folder: Path) -> RunDir:
    return RunDir((folder / "runs/cartpole_balance/latest").resolve())


@pytest.mark.slow
def test_every_command_works_on_the_readmes_algorithm(outside):
    assert f"```bash\n{COMMAND}\n```" in SECTION
    call(outside, f"{COMMAND} {SHORT} runs_dir=undisturbed algo.total_steps={4 * CHUNK}")
    (undisturbed,) = map(RunDir, outside.glob("undisturbed/cartpole_balance/2*"))

    call(outside, f"{COMMAND} {SHORT} algo.total_steps={2 * CHUNK}")
    run = newest(outside)
    half = final_state(run)
    call(outside, f"python -m ksim.run resume=latest algo.total_steps={4 * CHUNK}")
    resumed, whole = final_state(run), final_state(undisturbed)
    assert resumed.keys() == whole.keys() and len(whole) > 15
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    assert lines_without_time(run) == lines_without_time(undisturbed)
    assert not np.array_equal(half["model.weights"], whole["model.weights"])
    assert (run.plots / "algorithm.png").exists()

    loaded = call(outside, "python -c 'import ksim; print(*ksim.load_policy(\"latest\")([1, 2, 3, 4]))'")
    np.testing.assert_allclose(float(loaded), (whole["model.weights"] @ [1, 2, 3, 4]).item(), rtol=1e-5)
    call(outside, "python -m ksim.eval run=latest episodes=8 video=false")
    (evaluation,) = (path for path in run.eval.iterdir() if path.name != "final")
    final, again = (json.loads((run.eval / name / "metrics.json").read_text()) for name in ("final", evaluation))
    assert again["summary"] == final["summary"] and again["step"] == 4 * CHUNK

    call(outside, "python -m ksim.report runs out=report")
    (row,) = csv.DictReader((outside / "report/runs.csv").open())
    assert (row["state"], row["step"]) == ("completed", str(4 * CHUNK))
    assert float(row["eval/return"]) == pytest.approx(final["summary"]["return"])

    _, setting = COMMAND.split("ksim.run ")
    printed = call(outside, f"python -m ksim.bench {setting} {SMALL} repeats=1 warmup=2")
    assert "8 envs x 20 env steps" in printed
    assert re.search(r"│ policy +│", printed) and re.search(r"│ learning +│", printed)


@pytest.mark.training
def test_the_readmes_algorithm_learns_to_balance(outside):
    assert "total_steps: 1_500_000" in SECTION
    call(outside, f"{COMMAND} seed=1 eval.episodes=64 eval.video=false eval.interval_steps=null")
    summary = json.loads((newest(outside).eval / "final/metrics.json").read_text())["summary"]
    assert summary["falls"] < 0.1 and summary["return"] > 9.0  # of 10; 0.8 before
