"""Commands on a real Slurm, and a task that lasts for as long as a test needs it to."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from ksim.store import checkpoint, status
from ksim.store.run_dir import RunDir

REPO = Path(__file__).resolve().parent.parent.parent

# A task of the user's, with a term that takes its time while there is a file `slow`: a training that lasts for as
# long as a test needs it to, needs hardly any CPU, and computes what it computes without that.
OWN = """
import os, time
import jax, numpy as np

def dawdle(ctx):
    def wait(x):
        if os.path.exists("slow"):
            time.sleep(0.1)
        return np.zeros(np.shape(x), np.float32)
    x = ctx.qpos[0]
    return jax.pure_callback(wait, jax.ShapeDtypeStruct((), np.float32), x, vmap_method="expand_dims")
"""
YAMLS = {
    "task/slow": """
defaults: [cartpole_balance, _self_]
episode_length_s: 0.5
rewards: {dawdle: {_target_: own.dawdle, weight: 1.0}}
""",
    "algo/tiny": """
defaults: [ppo, _self_]
num_envs: 16
num_env_states_per_minibatch: 32
num_minibatches: 2
num_learning_epochs: 2
total_steps: 32_000
actor_hidden: [16]
critic_hidden: [16]
""",
}
# Two iterations of four env steps in a chunk: eight waits, 0.8 s. 250 chunks: 200 s, or 2 s without the file.
SMALL = """
task=slow algo=tiny physics=mujoco log.interval_iterations=2 checkpoint.every_s=2 eval.episodes=4 eval.video=false
eval.interval_steps=null
""".split()
SLURM = "launcher=slurm hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=1 hydra.launcher.signal_delay_s=20".split()


@dataclass(frozen=True)
class Login:
    """A user's working directory on the login node; a context manager that ends what was started there."""

    path: Path
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for record in self.path.rglob("slurm.json"):
            subprocess.run(["scancel", "--quiet", json.loads(record.read_bytes())["job"]])

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{REPO}:{self.path}"}

    def start(self, *argv: str, code: str | None = None) -> "subprocess.Popen[str]":
        """`python -m ksim.run --config-dir my -m <argv>` on Slurm."""
        python = [sys.executable, *(["-c", code] if code else ["-m", "ksim.run"])]
        process = subprocess.Popen(
            [*python, "--config-dir", "my", "-m", *SLURM, *SMALL, *argv],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *argv: str, code: str | None = None) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        process = self.start(*argv, code=code)
        printed, _ = process.communicate(timeout=400)
        return process.returncode, printed

    def jobs(self, sweep: str) -> list[RunDir]:
        """The run directories of a sweep, in the order of their numbers."""
        found = [path.parent for path in (self.path / sweep).glob("*/config.yaml")]
        return [RunDir(path) for path in sorted(found, key=lambda path: int(path.name.partition("_")[0]))]

    def slow(self) -> None:
        (self.path / "slow").touch()

    def fast(self) -> None:
        (self.path / "slow").unlink()


def make_login(path: Path) -> Login:
    (path / "own.py").write_text(OWN)
    for name, text in YAMLS.items():
        file = path / "my" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Login(path)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            queue = subprocess.run(["squeue", "--array"], capture_output=True, text=True).stdout
            pytest.fail(f"{what}: not in {seconds:.0f} s\n{queue}")
        time.sleep(0.2)


def state(run: RunDir) -> str | None:
    found = status.read(run.status_path)
    return found.state if found else None


def number(run: RunDir) -> str:
    """The run's job in Slurm."""
    return str(json.loads((run.path / "slurm.json").read_bytes())["job"])


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resumes(run: RunDir) -> int:
    """How often the run was taken up again, from a checkpoint."""
    return run.log_path.read_text().count("resuming at") if run.log_path.exists() else 0


def assert_same(a: RunDir, b: RunDir) -> None:
    """Both ended at the same step with the same whole train state, bit by bit."""
    left, right = (checkpoint.newest_valid(run.checkpoints, pytest.fail) for run in (a, b))
    assert left.name == right.name
    assert (left / "train_state.npz").read_bytes() == (right / "train_state.npz").read_bytes()
