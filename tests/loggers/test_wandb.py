"""wandb: the real one offline; whatever it does, a training goes on."""

import json
import os
import subprocess
import sys

import pytest

from ksim.loggers.logger import Loggers, RunInfo
from ksim.loggers.wandb import WandbLogger

wandb = pytest.importorskip("wandb")


def _warnings(caplog):
    return [record for record in caplog.records if record.name.startswith("ksim")]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))


def test_offline_stays_in_the_run_directory_and_goes_on_under_its_id(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    video = tmp_path / "video.mp4"
    video.write_bytes(b"\0" * 100)
    about = RunInfo(run, "task/run", {"algo": {"learning_rate": 1e-3}})
    logger = WandbLogger(run=about, mode="offline", project="p", group="sweep", tags=["t"])
    logger.log({"return": 1.0}, step=10)
    logger.log_video("eval/video", video, step=10)
    logger.log({"return": 2.0}, step=20)
    logger.finish()
    found = json.loads((run / "wandb.json").read_text())
    assert found["id"] == logger.run_id and found["project"] == "p" and found["group"] == "sweep"
    assert len(list((run / "wandb").glob(f"offline-run-*-{found['id']}/*.wandb"))) == 1
    assert list((run / "wandb").glob("offline-run-*/files/media/videos/eval/*.mp4"))
    again = WandbLogger(run=about, mode="offline")
    assert again.run_id == found["id"]
    again.finish(exit_code=1)


def test_online_without_a_login_says_so_and_goes_on_offline(tmp_path, caplog):
    logger = WandbLogger(run=RunInfo(tmp_path, "task/run", {}), mode="online")
    logger.log({"return": 1.0}, step=1)
    logger.finish()
    assert "wandb login" in caplog.text and len(_warnings(caplog)) == 1
    assert list((tmp_path / "wandb").glob("offline-run-*"))


_NO_NETWORK = """
import logging, sys
from pathlib import Path
from ksim.loggers.logger import RunInfo
from ksim.loggers.wandb import WandbLogger
logging.basicConfig(format="%(name)s %(message)s")
logger = WandbLogger(run=RunInfo(Path(sys.argv[1]), "task/run", {}), mode="online", timeout_s=2)
logger.log({"return": 1.0}, step=1)
logger.finish()
"""


def test_online_without_a_network_goes_on_offline(tmp_path):
    # Without WANDB_SERVICE, or it would talk to the wandb of this process.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    nobody = {**clean, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    command = [sys.executable, "-c", _NO_NETWORK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=nobody, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "this run is logged offline" in done.stderr and done.stderr.count("ksim.loggers.wandb") == 1
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_wandb_that_breaks_while_it_logs_is_left_out(tmp_path, monkeypatch, caplog):
    logger = WandbLogger(run=RunInfo(tmp_path, "task/run", {}), mode="offline")
    monkeypatch.setattr(logger._run, "log", None)
    loggers = Loggers({"wandb": logger})
    for step in range(3):
        loggers.log({"a": 1.0}, step=step)
    loggers.log_video("v", tmp_path / "no.mp4", step=3)
    loggers.finish()
    logger.finish()
    assert len(_warnings(caplog)) == 1 and "logger.wandb failed" in caplog.text


def test_disabled_does_nothing(tmp_path):
    logger = WandbLogger(run=RunInfo(tmp_path, "task/run", {}), mode="disabled")
    logger.log({"a": 1.0}, step=1)
    logger.log_video("v", tmp_path / "no.mp4", step=1)
    logger.finish()
    assert list(tmp_path.iterdir()) == []
