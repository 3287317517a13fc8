"""Sweeps as a user starts them, with a training that takes no time in the place of the real one."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent

# Python runs a sitecustomize.py that it finds on its path, in every process: the launcher's and the jobs'.
STUB = '''
import sys, types

SOURCE = """
import json, logging, time
from pathlib import Path

def train(cfg, run_dir, *, resume=False, stop=None):
    from ksim.store.status import StatusFile
    log = logging.getLogger("ksim.training.loop")
    with run_dir.lock(), StatusFile(run_dir.status_path) as status:
        log.info("training with seed %s, gamma %s", cfg.seed, cfg.algo.gamma)
        status.update(100)
        run_dir.checkpoints.mkdir(exist_ok=True)
        while Path(f"hold-{cfg.seed}").exists():
            if stop is not None:
                with stop:
                    time.sleep(0.05)
                if stop.signum:
                    stop.saved(status, run_dir, 100)
            time.sleep(0.05)
        if Path(f"fail-{cfg.seed}").exists():
            raise ValueError("no luck")
        (run_dir.eval / "final").mkdir(parents=True, exist_ok=True)
        (run_dir.eval / "final" / "metrics.json").write_text(json.dumps({"summary": {"return": 100 * cfg.algo.gamma}}))
        return 100 * cfg.algo.gamma
"""
module = types.ModuleType("ksim.training.loop")
exec(SOURCE, vars(module))
sys.modules["ksim.training.loop"] = module
'''


# A shell's background job, as this test run may be, hands on that Ctrl-C is ignored.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from ksim.run import main
main()
"""


@dataclass(frozen=True)
class Cwd:
    """A working directory, and what is started there."""

    path: Path

    def start(self, *argv: str, code: str = MAIN, **env: str) -> "subprocess.Popen[str]":
        """`python -m ksim.run <argv>`, in a process group of its own."""
        paths = os.pathsep.join(map(str, (self.path / "stub", REPO)))
        return subprocess.Popen(
            [sys.executable, "-c", code, *argv],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": paths, "HYDRA_FULL_ERROR": "0", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *argv: str, code: str = MAIN, **env: str) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        process = self.start(*argv, code=code, **env)
        printed, _ = process.communicate(timeout=300)
        return process.returncode, printed

    def jobs(self, sweep: str | Path) -> dict[str, Path]:
        """The run directories of a sweep by their names."""
        return {path.name: path for path in sorted((self.path / sweep).iterdir()) if (path / "config.yaml").exists()}

    def trainings(self, sweep: str | Path) -> dict[str, int]:
        """How often each job was trained, by its log."""
        return {
            name: (path / "train.log").read_text().count("training with") for name, path in self.jobs(sweep).items()
        }


@pytest.fixture
def real_cwd(tmp_path) -> Cwd:
    """A working directory in which trainings are real."""
    return Cwd(tmp_path)


@pytest.fixture
def cwd(tmp_path) -> Cwd:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "sitecustomize.py").write_text(STUB)
    (tmp_path / "my" / "task").mkdir(parents=True)
    (tmp_path / "my" / "algo").mkdir()
    (tmp_path / "my" / "algo" / "mine.yaml").write_text("defaults: [ppo, _self_]\ngamma: 0.5\n")
    return Cwd(tmp_path)
