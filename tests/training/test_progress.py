"""What a training shows: two lines that fit a narrow terminal, and log lines elsewhere."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from ksim.training import progress
from ksim.training.progress import Progress, describe, duration

LINE = {"env_steps_per_s": 9876.5, "return": 61.25, "episode_length_s": 19.97, "falls": 0.034}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_main_numbers_in_words():
    assert describe(LINE) == "9,876 env steps/s  return 61.25  episode 20.0 s  falls 3%"
    assert describe({**LINE, "return": None}) == "9,876 env steps/s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (36000, "10:00:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_fits_the_terminal(width):
    bar = progress._TwoLines(20_000_000)
    bar.show(19_988_480, duration(754), describe({**LINE, "return": 1234.56, "falls": 1.0}))
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(*bar.get_renderables())
    first, second = console.file.getvalue().splitlines()
    assert len(first) <= width
    assert first.endswith("100% 19,988,480/20,000,000 steps 0:12:34 left")
    assert second.rstrip() == "9,876 env steps/s  return 1234.56  episode 20.0 s  falls 100%"


def test_logs_go_above_the_bar_and_lines_only_to_files(monkeypatch, tmp_path, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    root = logging.getLogger()
    handlers = [logging.StreamHandler(Terminal()), logging.FileHandler(tmp_path / "train.log")]
    own = handlers[0].stream
    monkeypatch.setattr(root, "handlers", handlers)
    caplog.set_level(logging.INFO)
    with Progress(100) as shown:
        logging.getLogger("ksim").warning("look here")
        shown.show(100, LINE)
    handlers[1].close()
    assert handlers[0].stream is own and own.getvalue() == ""
    assert "look here" in terminal.getvalue() and "100/100 steps" in terminal.getvalue()
    assert terminal.getvalue().count("9,876 env steps/s") == terminal.getvalue().count("\n9,876 env steps/s")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines == [
        "look here",
        "100/100 steps  9,876 env steps/s  return 61.25  episode 20.0 s  falls 3%  0:00:00 left",
    ]


def test_without_a_terminal_there_are_lines_now_and_then(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with caplog.at_level(logging.INFO), Progress(1_000_000) as shown:
        for step in range(1, 11):
            now[0] += 7.0
            shown.show(step * 100_000, {**LINE, "env_steps_per_s": 1000.0})
    steps = [message.split("/")[0] for message in caplog.messages]
    assert steps == ["100,000", "400,000", "700,000", "1,000,000"]
    assert caplog.messages[0].endswith("0:15:00 left")
