"""Statistics over seeds against closed forms, exhaustive enumeration and simulation."""

from itertools import product

import numpy as np
import pytest

from ksim.report import groups, runs, stats

# Student's t at 97.5 %, by degrees of freedom, from a printed table.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}


@pytest.mark.parametrize("freedom", T)
def test_the_means_interval_is_students(freedom):
    x = np.random.default_rng(freedom).normal(3.0, 2.0, freedom + 1)
    found = stats.estimate(x)
    error = np.std(x, ddof=1) / np.sqrt(len(x))
    assert found.n == len(x) and found.mean == pytest.approx(sum(x) / len(x))
    ends = [(found.mean - found.low) / error, (found.high - found.mean) / error]
    assert ends == pytest.approx([T[freedom]] * 2, abs=5.1e-4)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    x_nT = np.random.default_rng(0).normal(1.0, 5.0, (3, 20_000))
    _, _, low_T, high_T = stats.mean_interval(x_nT)
    assert np.mean((low_T < 1.0) & (high_T > 1.0)) == pytest.approx(0.95, abs=0.005)


def test_what_few_seeds_cannot_tell_is_nan():
    none, one, two, three = (stats.estimate(x) for x in ([], [4.0], [4.0, 6.0], [4.0, 6.0, 11.0]))
    assert none.n == 0 and np.isnan([none.mean, none.low, none.iqm]).all()
    assert one.mean == one.iqm == 4.0 and np.isnan([one.low, one.high, one.iqm_low]).all()
    assert two.mean == 5.0 and two.low < 4.0 and np.isnan(two.iqm_low)
    assert three.iqm == three.mean == 7.0 and np.isnan([three.iqm_low, three.iqm_high]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 100], 2.5),
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),
        ([-1e9, 1, 2, 3, 1e9], 2.0),
        (range(10), 4.5),
    ],
)
def test_the_interquartile_mean_leaves_the_outer_quarters_out(values, expected):
    assert stats.estimate(list(values)).iqm == pytest.approx(expected)


def test_the_iqms_interval_is_the_bootstraps():
    x = np.array([1.0, 2.5, 4.0, 20.0])
    every = np.sort(list(product(x, repeat=4)), axis=1)[:, 1:3].mean(axis=1)  # all resamples, equally likely
    low, high = np.quantile(every, [0.025, 0.975])
    found = stats.estimate(x)
    assert [found.iqm_low, found.iqm_high] == pytest.approx([low, high], abs=0.3)
    assert found == stats.estimate(x)  # no dice
    same = stats.estimate([2.0] * 5)
    assert (same.iqm_low, same.iqm_high, same.low, same.high) == (2.0, 2.0, 2.0, 2.0)


def test_intervals_of_shares_stay_shares():
    assert stats.bounds("eval/falls") == stats.bounds("falls") == stats.bounds("eval/termination/low") == (0.0, 1.0)
    found = stats.estimate([0.0, 0.02, 0.0], *stats.bounds("eval/falls"))
    assert found.low == 0.0 and 0.02 < found.high < 1.0
    assert stats.estimate([0.0, 0.02, 0.0], *stats.bounds("eval/return")).low < 0.0


def line(*points: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    x_T, y_T = np.array(points, float).reshape(-1, 2).T
    return x_T, y_T


def test_a_curve_is_an_estimate_at_each_step():
    rng = np.random.default_rng(1)
    step_T, y_nT = np.arange(1, 6) * 100.0, rng.normal(size=(5, 5))
    found = stats.curve([(step_T, y_T) for y_T in y_nT])
    assert found.step.tolist() == step_T.tolist() and found.n.tolist() == [5] * 5
    for i in range(5):
        at = stats.estimate(y_nT[:, i])
        here = [found.mean[i], found.low[i], found.high[i], found.iqm[i]]
        assert here == pytest.approx([at.mean, at.low, at.high, at.iqm])


def test_a_run_counts_from_its_first_to_its_last_number():
    found = stats.curve([line((1, 10), (2, 20), (3, 30)), line((2, 40)), line()])
    assert found.step.tolist() == [1, 2, 3]
    assert found.n.tolist() == [1, 2, 1]
    assert found.mean.tolist() == found.iqm.tolist() == [10, 30, 30]
    assert np.isnan(found.low[[0, 2]]).all() and found.low[1] == pytest.approx(30 - T[1] * 10, rel=1e-3)


def test_runs_with_other_log_intervals_are_interpolated():
    found = stats.curve([line((0, 0), (4, 8)), line((1, 5), (2, 5), (4, 5))])
    assert found.step.tolist() == [0, 1, 2, 4]
    assert found.mean.tolist() == [0, 3.5, 4.5, 6.5]


def test_no_run_has_an_empty_curve():
    found = stats.curve([line(), line()])
    assert len(found.step) == len(found.mean) == len(found.iqm) == 0


def test_final_numbers_are_those_of_completed_runs(make_run):
    for seed, value in enumerate([10.0, 12.0, 14.0]):
        make_run(f"a/{seed}", seed=seed, final={"return": value, "metric/drift": value / 100})
    stopped = make_run("a/3", seed=3, state="interrupted", returns=[99.0])
    (task,) = groups.grouped([runs.read(path) for path in runs.find([stopped.path.parent], print)])
    (final,) = stats.results(task).finals
    assert final["eval/return"] == stats.estimate([10.0, 12.0, 14.0])
    assert final["eval/metric/drift"].mean == pytest.approx(0.12)
    assert final["train/return"].mean == 3.0 and final["train/return"].n == 3
    assert not any("seed" in name or "episodes" in name for name in final)
    (curves,) = stats.results(task).curves
    assert curves["return"].n.tolist() == [4, 3, 3]  # but an unfinished run has its part in the curve
    assert curves["return"].mean[0] == (1 + 1 + 1 + 99) / 4
