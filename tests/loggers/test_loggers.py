"""Several loggers as one, their settings, and a user's own from outside the project."""

import logging
import re
import sys
from pathlib import Path

import pytest
from support import child
from support.runs import SMALL

from ksim.config.compose import load_frozen
from ksim.errors import ConfigError
from ksim.loggers.build import build, check
from ksim.loggers.logger import Loggers, RunInfo

README = Path(__file__).resolve().parent.parent.parent / "README.md"


class Recorder:
    """Keeps what it is told, and breaks where it is asked to."""

    heard: list[tuple]

    def __init__(self, *, run: RunInfo, factor: float = 1.0, breaks_at: int | None = None):
        self.run, self.factor, self.breaks_at, self.heard = run, factor, breaks_at, []

    def log(self, metrics, step):
        if step == self.breaks_at:
            raise OSError("no network")
        self.heard.append(("log", metrics["a"] * self.factor, step))

    def log_video(self, name, path, step):
        self.heard.append(("video", name, path, step))

    def finish(self, exit_code=0):
        self.heard.append(("finish", exit_code))


class NeverStarts:
    def __init__(self, *, run: RunInfo):
        raise RuntimeError("no server")


class WantsNoRun:
    def __init__(self, *, folder: str = "."): ...


@pytest.fixture
def about(tmp_path) -> RunInfo:
    return RunInfo(tmp_path, "task/run", {"seed": 1})


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_loggers", sys.modules[__name__])


def test_each_hears_everything_and_the_end(about, tmp_path):
    a, b = Recorder(run=about), Recorder(run=about, factor=2.0)
    with Loggers({"a": a, "b": b}) as loggers:
        loggers.log({"a": 1.0}, 10)
        loggers.log_video("video", tmp_path / "v.mp4", 20)
    assert a.heard == [("log", 1.0, 10), ("video", "video", tmp_path / "v.mp4", 20), ("finish", 0)]
    assert b.heard[0] == ("log", 2.0, 10) and len(b.heard) == 3


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_run_that_ends_in_an_error_is_no_success(about, error):
    logger = Recorder(run=about)
    with pytest.raises(error), Loggers({"a": logger}):
        raise error
    assert logger.heard == [("finish", 1)]


def test_one_that_breaks_is_left_out_with_one_warning(about, caplog):
    broken, whole = Recorder(run=about, breaks_at=2), Recorder(run=about)
    with caplog.at_level(logging.WARNING), Loggers({"broken": broken, "whole": whole}) as loggers:
        for step in (1, 2, 3):
            loggers.log({"a": 1.0}, step)
    assert broken.heard == [("log", 1.0, 1)]
    assert [heard[-1] for heard in whole.heard] == [1, 2, 3, 0]
    assert caplog.messages == ["logger.broken failed and is left out from here on: OSError: no network"]


def test_one_that_cannot_start_is_left_out(about, caplog):
    settings = {"dead": {"_target_": "my_loggers.NeverStarts"}, "whole": {"_target_": "my_loggers.Recorder"}}
    loggers = build(settings, about)
    loggers.log({"a": 1.0}, 1)
    assert caplog.messages == ["logger.dead failed and is left out from here on: RuntimeError: no server"]
    assert loggers._loggers["whole"].heard == [("log", 1.0, 1)]


def test_settings_reach_the_constructor_with_its_types(about):
    settings = {"mine": {"_target_": "my_loggers.Recorder", "factor": 3}, "off": None}
    (mine,) = build(settings, about)._loggers.values()
    assert mine.run is about and mine.factor == 3.0 and isinstance(mine.factor, float)


MISTAKES = [
    ({"_target_": "my_loggers.Recordr"}, "logger.x: my_loggers has no 'Recordr' (did you mean 'Recorder'?)"),
    ({"_target_": "my_loggers.Recorder", "factr": 1}, "logger.x.factr: no such setting (did you mean 'factor'?)"),
    ({"_target_": "my_loggers.Recorder", "factor": "big"}, "logger.x.factor: must be a number, not 'big'"),
    ({"_target_": "my_loggers.Recorder", "run": "here"}, "logger.x.run: no such setting"),
    ({"_target_": "my_loggers.WantsNoRun"}, "logger.x: my_loggers.WantsNoRun must take the keyword argument 'run'"),
    ({"factor": 1.0}, "logger.x: must be a mapping with a '_target_'"),
    ("wandb", "logger.x: must be a mapping with a '_target_'"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES)
def test_mistakes_name_their_path(settings, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        check({"x": settings})


@pytest.mark.slow
def test_the_readmes_own_logger_works_from_outside(tmp_path, monkeypatch):
    """One module and one YAML file, as the README shows them."""
    blocks = re.search(r"### A logger of your own\n(.*?)\n###? ", README.read_text(), re.DOTALL)
    assert blocks is not None
    for name, text in re.findall(r"```\w+\n# (\S+)\n(.*?)```", blocks[1], re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (command,) = re.findall(r"python -m ksim.run (.*)", blocks[1])
    small = [*SMALL, "algo.total_steps=256", f"runs_dir={tmp_path / 'runs'}"]
    code = "import sys; from ksim.run import main; main()"
    monkeypatch.chdir(tmp_path)
    result = child.python(code, *command.split(), *small)
    assert result.returncode == 0, result.stderr
    (written,) = tmp_path.glob("runs/*/2*/progress.csv")
    lines = written.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["128", "256"]
    assert load_frozen(written.parent / "config.yaml").logger["csv"]["key"] == "env_steps_per_s"
