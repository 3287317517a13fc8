"""Metrics and the log: from the steps of episodes to the numbers that people read."""

import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task

from ksim.envs.log import summarize

E, T = 5, 60


def angle(ctx):
    return ctx.joint_pos[1]


@pytest.fixture(scope="module")
def steps():
    player = Player(
        cartpole_task(
            rewards={"angle": {"_target_": angle, "weight": 2.0}},
            metrics={
                **{name: {"_target_": angle, "reduce": name} for name in ("mean", "last", "max", "sum")},
                "falling": {"_target_": lambda ctx: ctx.terminated, "reduce": "sum"},  # in the step that it judges
            },
            terminations={
                "fell": {"_target_": f"{MDP}.terminations.joint_out_of_range", "joints": "hinge", "limit": 0.2},
                "time_out": {"_target_": f"{MDP}.terminations.time_out"},
            },
            events={
                "joints": {
                    "_target_": f"{MDP}.events.reset_joints",
                    "mode": "reset",
                    "position_range": [-0.15, 0.15],
                    "velocity_range": [-0.2, 0.2],
                }
            },
            episode_length_s=0.24,
        )
    )
    return player.play(np.random.default_rng(0).uniform(-1, 1, (T, E, 1)))


@pytest.fixture(scope="module")
def episodes(steps):
    """The angles that each episode that ended went through, and whether it fell."""
    found, running = [], [[] for _ in range(E)]
    for step in steps:
        for env in range(E):
            running[env].append(step.out.terminal_obs["actor"][env, 1])
            if step.out.done[env]:
                found.append((np.array(running[env]), bool(step.out.terminated[env])))
                running[env] = []
    return found


def test_metrics_reduce_an_episode_to_a_number(steps):
    reduce = {"mean": np.mean, "last": lambda x: x[-1], "max": np.max, "sum": np.sum}
    running = [[] for _ in range(E)]
    for step in steps:
        for env in range(E):
            running[env].append(step.out.terminal_obs["actor"][env, 1])
            for name, function in reduce.items():
                expected = pytest.approx(function(np.array(running[env])), rel=1e-4, abs=1e-6)
                assert step.out.episode[f"metric/{name}"][env] == expected
            if step.out.done[env]:
                running[env] = []


def test_the_summary_averages_over_the_episodes_that_ended(steps, episodes):
    """Each episode counts the same, however long it was."""
    log = {name: sum(float(step.out.log[name]) for step in steps) for name in steps[0].out.log}
    summary = summarize(log, 0.02)
    lengths = np.array([len(angles) for angles, _ in episodes])
    fell = np.array([fall for _, fall in episodes])
    assert fell.any() and not fell.all() and len(set(lengths)) > 2
    assert summary["episodes"] == len(episodes)
    expected = {
        "episode_length_s": 0.02 * lengths.mean(),
        "falls": fell.mean(),
        "return": np.mean([0.02 * 2.0 * angles.sum() for angles, _ in episodes]),
        "reward/angle": np.mean([2.0 * angles.mean() for angles, _ in episodes]),
        "metric/mean": np.mean([angles.mean() for angles, _ in episodes]),
        "metric/last": np.mean([angles[-1] for angles, _ in episodes]),
        "metric/max": np.mean([angles.max() for angles, _ in episodes]),
        "metric/falling": fell.mean(),
        "metric/sum": np.mean([angles.sum() for angles, _ in episodes]),
        "termination/fell": fell.mean(),
        "termination/time_out": np.mean(lengths == 12),
    }
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert "nan_guard" not in summary  # while it is zero


def test_without_an_end_there_is_nothing_to_average():
    log = {"episodes": 0.0, "return": 0.0, "length": 0.0, "terminated": 0.0, "reward/a": 0.0, "nan_guard": 3.0}
    summary = summarize(log | {"not_finite/a": 2.0, "not_finite/b": 0.0}, 0.02)
    assert summary["episodes"] == 0 and summary["nan_guard"] == 3 and summary["not_finite/a"] == 2
    for name in ("return", "episode_length_s", "falls", "reward/a"):
        assert summary[name] is None
    assert "not_finite/b" not in summary
