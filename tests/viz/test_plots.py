"""Plots from synthetic metrics: they are written, small, and indifferent to what is missing."""

import numpy as np
import pytest
from PIL import Image

from ksim.viz import plots
from ksim.viz.plots import plot_episode, plot_training

PPO_NAMES = (
    "policy_loss value_loss entropy clip_fraction action_std grad_norm learning_rate explained_variance reward"
    " first_ratio_error"
).split()


def log_lines(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        line = {
            "step": i * 32_768,
            "episodes": 100.0,
            "return": None if i % 7 == 3 else 20 * (1 - np.exp(-i / 900)) + rng.normal(),
            "episode_length_s": i / 300 + rng.normal(),
            "falls": float(np.exp(-i / 500)),
            "env_steps_per_s": 9000 + 300 * rng.normal(),
            "wall_time_s": 3.5 * i,
            "ppo/kl": float("nan") if i % 5 == 2 else 0.02 + 0.003 * rng.normal(),
            "status": "running",
        }
        line |= {f"ppo/{name}": float(np.exp(rng.normal())) for name in PPO_NAMES}
        if i % 50 == 1:
            line |= {"nan_guard": 2.0, "not_finite/term_3": 1.0}
        line |= {f"reward/term_{k}": rng.normal() for k in range(16)}
        line |= {f"termination/{k}": rng.uniform() for k in ("fell", "time_out")}
        line |= {"metric/drift": rng.uniform()}
        if i % 100 == 0:
            line["eval/return"] = 20.0
        lines.append(line)
    return lines


def test_training_plots_are_written_and_small(tmp_path):
    files = plot_training(log_lines(2000), tmp_path / "plots")
    names = ("learning", "optimization", "rewards", "terminations", "metrics")
    assert [f.name for f in files] == [f"{name}.png" for name in names]
    assert sorted(tmp_path.joinpath("plots").iterdir()) == sorted(files)
    for file in files:
        assert file.stat().st_size < 200_000
        assert np.asarray(Image.open(file).convert("RGB")).std() > 5


def test_every_name_that_the_update_writes_is_drawn(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plots, "_line", lambda ax, x_T, y_T, **_: drawn.append(ax.get_title()))
    monkeypatch.setattr(plots.Axes, "legend", lambda *a, **k: None)
    figures = {"optimization.png"}
    line = {f"ppo/{name}": 0.5 for name in [*PPO_NAMES, "kl"]} | {"nan_guard": 1.0, "not_finite/upright": 2.0}
    assert {f.name for f in plot_training([{"step": 1, **line}], tmp_path)} == figures
    assert len(drawn) == len(line)


def test_what_another_algorithm_tells_is_drawn_under_its_own_names(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(plots, "_line", lambda ax, x_T, y_T, **_: drawn.append((ax, y_T.tolist())))
    lines = [{"step": i, "episodes": 3.0, "search/score": i + 1.0, "search/std": 0.1} for i in range(2)]
    assert [file.name for file in plot_training(lines, tmp_path)] == ["algorithm.png"]
    found = [(ax.get_title(), y_T) for ax, y_T in drawn]
    assert found == [("search/score", [1.0, 2.0]), ("search/std", [0.1, 0.1])]


def test_missing_keys_are_not_plotted(tmp_path):
    assert plot_training([], tmp_path) == []
    assert plot_training([{"step": 1, "return": None}], tmp_path) == []
    files = plot_training([{"step": 1, "return": 2.0}, {"step": 2, "reward/up": 1}], tmp_path)
    assert {f.name for f in files} == {"learning.png", "rewards.png"}


def test_each_key_lands_in_its_panel(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(plots, "_line", lambda ax, x_T, y_T, **_: drawn.setdefault(ax, []).append((x_T, y_T)))
    lines = [
        {"step": 0, "falls": 0.5, "eval/falls": 0.25},
        {"step": 10, "falls": None},
        {"step": 20, "falls": 0.1, "eval/falls": 0.0},
    ]
    monkeypatch.setattr(plots.Axes, "legend", lambda *a, **k: None)
    plot_training(lines, tmp_path)
    ((ax, ((x_T, y_T), (eval_x_T, eval_y_T))),) = drawn.items()
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("Falls", "env steps", "share of episodes (%)")
    assert x_T.tolist() == [0, 10, 20]
    np.testing.assert_allclose(y_T, [50, np.nan, 10])  # None is a gap
    assert (eval_x_T.tolist(), eval_y_T.tolist()) == ([0, 20], [25, 0])  # evaluations are joined across lines without


def test_episode_plots(tmp_path):
    times_T = np.arange(1000) * 0.02
    rng = np.random.default_rng(0)
    few = {"upright": np.sin(times_T), "alive": np.full(1000, np.nan), "command": rng.normal(size=(1000, 2))}
    many = {f"joint_{i}": np.sin(times_T * i / 4) + 0.1 * rng.normal(size=1000) for i in range(20)}
    for name, series in (("rewards", few), ("joints", many), ("one", {"a": np.zeros(1000)})):
        path = plot_episode(times_T, series, tmp_path / "plots" / f"{name}.png", "rad")
        assert path.stat().st_size < 200_000
        assert Image.open(path).format == "PNG"


def test_episode_series_are_checked(tmp_path):
    with pytest.raises(ValueError, match="series 'a' must have shape"):
        plot_episode(np.arange(3), {"a": np.zeros(4)}, tmp_path / "a.png", "rad")
    with pytest.raises(ValueError, match="no series"):
        plot_episode(np.arange(3), {}, tmp_path / "a.png", "rad")
