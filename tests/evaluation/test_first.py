"""The film and the plots of the first episode: what they hold, from its first step to its last state."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support.runs import SMALL
from support.untrained import fresh_policy

from ksim.config.compose import compose
from ksim.evaluation import evaluate as evaluation
from ksim.evaluation import first
from ksim.training.experiment import build

LIMIT = 0.3  # rad; episodes begin within 0.2


@pytest.fixture(scope="module")
def fallen():
    """A cart-pole whose untrained policy lets the pole fall, and what it played."""
    experiment = build(compose([*SMALL, f"task.terminations.fallen.limit={LIMIT}", "task.episode_length_s=4.0"]))
    play = evaluation.player(experiment.env, 4, 0, keep_carry=True)
    return experiment.env, play(fresh_policy(experiment), None)


@pytest.fixture
def shown(monkeypatch):
    """What goes to the renderer, and what to the plots."""
    films, plots = [], {}

    def film(model, qpos_Tq, path, **options):
        films.append(SimpleNamespace(qpos_Tq=qpos_Tq, **options))
        return path

    def plot(times_T, series, path, ylabel):
        plots[Path(path).stem] = (times_T, series)
        return path

    monkeypatch.setattr(first, "try_render_video", film)
    monkeypatch.setattr(first, "plot_episode", plot)
    return films, plots


def test_film_and_plots_end_with_the_episodes_last_state(fallen, shown, tmp_path):
    env, episodes = fallen
    films, plots = shown
    length = int(episodes.values["length"][0])
    assert episodes.terminated[0] and 1 < length < 200
    hinge = env.scene.joint_names.index("hinge")
    first.show_first(env, episodes, tmp_path, video_length_s=10.0)
    (film,) = films
    angle_T = film.qpos_Tq[:, env.scene.joint_qpos_adr[hinge]]
    assert len(angle_T) == length
    assert abs(angle_T[-1]) > LIMIT and (np.abs(angle_T[:-1]) <= LIMIT).all()
    assert set(plots) == {"joint_positions", "joint_velocities", "actions", "rewards"}
    for times_T, series in plots.values():
        assert {len(times_T), *(len(values_T) for values_T in series.values())} == {length}
    np.testing.assert_array_equal(plots["joint_positions"][1]["hinge"], angle_T)
    assert plots["joint_positions"][0][-1] == pytest.approx(length * env.step_dt)
    assert plots["actions"][0][-1] == pytest.approx((length - 1) * env.step_dt)
    times_T, rewards = plots["rewards"]
    assert times_T[0] == plots["joint_velocities"][0][0] == pytest.approx(env.step_dt)  # what the first action led to
    assert sum(map(np.sum, rewards.values())) * env.step_dt == pytest.approx(episodes.values["return"][0], rel=1e-4)


def test_a_film_of_a_long_episode_shows_its_beginning(fallen, shown, tmp_path):
    env, episodes = fallen
    first.film(env, episodes, tmp_path / "a.mp4", length_s=0.1)
    assert len(shown[0][0].qpos_Tq) == round(0.1 / env.step_dt)
    np.testing.assert_array_equal(shown[0][0].qpos_Tq[0], episodes.qpos_Tq[0])


def test_the_overlay_tells_time_and_reward(fallen, shown, tmp_path):
    env, episodes = fallen
    first.film(env, episodes, tmp_path / "a.mp4", length_s=10.0, overlay=True)
    captions_T = shown[0][0].captions_T
    length = int(episodes.values["length"][0])
    assert captions_T[0]["time"] == f"{env.step_dt:.2f} s" and len(captions_T) == length
    rewards = [float(caption["reward"].split()[0]) for caption in captions_T]
    assert sum(rewards) * env.step_dt == pytest.approx(episodes.values["return"][0], abs=0.005 * length)


PUSH = "{_target_: ksim.mdp.events.push, mode: interval, interval_range_s: [0.1, 0.1], speed: 0.5}"


@pytest.mark.slow
def test_pushes_are_arrows_in_the_film(shown, tmp_path):
    """From the fifth step on: the arrow starts where the base is in that frame."""
    small = [o for o in SMALL if not o.startswith("task")]
    experiment = build(
        compose([*small, "task=kbot_standing", "task.episode_length_s=0.3", f"++task.events.push={PUSH}"])
    )
    played = evaluation.player(experiment.env, 2, 0, keep_carry=True)(fresh_policy(experiment), None)
    first.film(experiment.env, played, tmp_path / "a.mp4", length_s=1.0)
    (film,) = shown[0]
    counts = [len(markers) for markers in film.markers_T]
    assert counts == [0] * 4 + [1] * (len(film.qpos_Tq) - 4)
    for qpos, markers in zip(film.qpos_Tq[4:], film.markers_T[4:], strict=True):
        np.testing.assert_allclose(markers[0].start, qpos[:3], atol=1e-6)
    jax.clear_caches()
