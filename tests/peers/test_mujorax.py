"""Who knows mujorax finds the same trajectories here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PYTHON = next(filter(None, (shutil.which(f"python3.{minor}") for minor in (13, 14))), None)

pytestmark = [pytest.mark.peers, pytest.mark.slow]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of a fresh virtual environment with mujorax and what ksim needs; one may be given."""
    if given := os.environ.get("KSIM_MUJORAX_PYTHON"):
        return Path(given)
    if PYTHON is None or subprocess.run([PYTHON, "--version"], capture_output=True).returncode:
        pytest.skip("mujorax needs Python 3.13, which is not here")
    folder = tmp_path_factory.mktemp("mujorax")
    subprocess.run([PYTHON, "-m", "venv", folder], check=True)
    executable = folder / "bin" / "python"
    install = [executable, "-m", "pip", "install", "--quiet", "mujorax", f"{HERE.parents[1]}[playground]"]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode:
        reason = result.stderr.strip().splitlines() or ["no message"]
        pytest.skip(f"mujorax cannot be installed here: {reason[-1]}")
    return executable


@pytest.mark.parametrize("name", ["CartpoleBalance", "PendulumSwingup", "ReacherEasy", "PointMass", "CheetahRun"])
def test_the_same_key_and_actions_give_the_same_trajectory(python, name):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    script = [python, str(HERE / "mujorax_same.py"), name]
    result = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr[-4000:]
    assert f"{name}: 100 steps alike" in result.stdout
