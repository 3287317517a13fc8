"""A learner that nobody here wrote learns from the env."""

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
LARGEST_RETURN = 10.0  # of cartpole_balance: 1 per second

pytestmark = [pytest.mark.peers, pytest.mark.slow]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of a fresh virtual environment with Stable-Baselines3; it also finds the packages of this one."""
    folder = tmp_path_factory.mktemp("sb3")
    venv.create(folder, with_pip=True)
    executable = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    found = subprocess.run(
        [executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    (Path(found.stdout.strip()) / "parent.pth").write_text(sysconfig.get_path("purelib"))
    install = [executable, "-m", "pip", "install", "--quiet", "stable-baselines3"]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode:
        reason = result.stderr.strip().splitlines() or ["no message"]
        pytest.skip(f"stable-baselines3 cannot be installed here: {reason[-1]}")
    return executable


def test_stable_baselines3_trains_the_cart_pole(python):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    script = [python, str(HERE / "sb3_cartpole.py"), "60000"]
    result = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    found = re.search(r"mean return of 16 fresh episodes: ([\d.]+)", result.stdout)
    assert found, result.stdout[-4000:]
    assert float(found[1]) >= 0.95 * LARGEST_RETURN
