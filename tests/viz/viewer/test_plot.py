"""The rewards on disk, without a screen."""

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ksim.viz.viewer import reward_plot
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.history import History
from ksim.viz.viewer.plot_worker import Drawing
from ksim.viz.viewer.reward_plot import RewardPlot


def test_history_keeps_the_newest_points():
    history = History(4)
    for i in range(7):
        history.append(0.1 * i, {"a": i, "b": -i})
    times, values = history.read()
    np.testing.assert_allclose(times, [0.3, 0.4, 0.5, 0.6])
    assert values["a"].tolist() == [3, 4, 5, 6] and values["b"].tolist() == [-3, -4, -5, -6]
    assert history.read(2)[1]["a"].tolist() == [5, 6]
    assert len(history) == 4 and history.total == 7


def test_a_line_is_drawn_where_its_points_are(tmp_path):
    """A constant and a step: the blue pixels of the step lie in two rows of its panel, those of the constant in one."""
    times = np.linspace(0.0, 10.0, 200)
    series = {"time": times, "reward/total": np.full(200, 2.0), "reward/step": np.where(times < 5.0, 0.0, 1.0)}
    Drawing().save(series, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        pixels = np.asarray(image.convert("RGB"), int)
    blue = pixels[..., 2] - pixels[..., 0] > 40
    third = pixels.shape[1] // 3

    def rows(panel):
        found = np.flatnonzero(panel.sum(axis=1) > 40)
        return 1 + np.count_nonzero(np.diff(found) > 3)

    assert rows(blue[:, :third]) == 1
    assert rows(blue[:, third : 2 * third]) == 2


def test_the_picture_is_replaced_whole_and_its_process_ends(tmp_path):
    history = History(100)
    for i in range(100):
        history.append(0.02 * i, {"reward/total": 1.0, "reward/alive": 1.0, "joint/knee/torque": 3.0})
    cfg = InteractiveVisualizerConfig(plot_path=str(tmp_path / "plots"), plot_every_s=0.1)
    versions = set()
    with RewardPlot(history, cfg) as plot:
        deadline = time.monotonic() + 120.0
        while len(versions) < 3 and time.monotonic() < deadline:
            if plot.path.exists():
                with Image.open(plot.path) as image:
                    image.load()
                versions.add(plot.path.stat().st_ino)
            time.sleep(0.01)
        pid = plot._process.pid
    assert len(versions) == 3
    assert not os.path.exists(f"/proc/{pid}") and not plot._thread.is_alive()
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["rewards.png"]


def test_an_end_of_an_episode_is_not_lost_between_points():
    history = History(5000)
    for i in range(5000):
        history.append(0.02 * i, {"termination/fallen": float(i == 1234)})
    content = reward_plot._packed(history)
    with np.load(reward_plot.io.BytesIO(content)) as arrays:
        assert len(arrays["time"]) <= 1000 and arrays["termination/fallen"].sum() == 1.0


def test_the_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(reward_plot.tempfile, "tempdir", str(tmp_path))
    assert reward_plot._folder(None) == tmp_path / "rewards_plots"
    (tmp_path / "rewards_plots").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rewards_plots").symlink_to(tmp_path / "elsewhere")
    assert reward_plot._folder(None) != tmp_path / "rewards_plots"
    assert reward_plot._folder("mine") == Path("mine").absolute()
