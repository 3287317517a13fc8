"""Generalized advantage estimation against the formula, one env and one step at a time."""

import numpy as np
import pytest

from ksim.rl.gae import gae

T, E = 40, 5


def rollout(seed=0):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, T, E)).astype(np.float32)
    terminated = rng.random((T, E)) < 0.1
    truncated = rng.random((T, E)) < 0.1
    assert terminated.any() and truncated.any() and (terminated & truncated).any()
    return reward, value, next_value, terminated, terminated | truncated


def by_formula(reward, value, next_value, terminated, done, gamma, lam):
    """A_t = sum over k of (gamma lam)^k delta_{t+k}, up to the end of the episode or of the rollout."""
    advantage = np.zeros((T, E))
    for env in range(E):
        for t in range(T):
            factor = 1.0
            for k in range(t, T):
                after = 0.0 if terminated[k, env] else next_value[k, env]
                advantage[t, env] += factor * (reward[k, env] + gamma * after - value[k, env])
                if done[k, env]:
                    break
                factor *= gamma * lam
    return advantage


@pytest.mark.parametrize(("gamma", "lam"), [(0.97, 0.95), (0.9, 0.0), (0.99, 1.0), (1.0, 1.0)])
def test_advantages_are_the_formulas(gamma, lam):
    data = rollout()
    advantage, target = gae(*data, gamma=gamma, lam=lam)
    expected = by_formula(*data, gamma, lam)
    np.testing.assert_allclose(advantage, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(target, expected + data[1], rtol=1e-4, atol=1e-4)


def test_a_time_out_bootstraps_and_a_fall_does_not():
    """Rewards of 1 and values of 10 everywhere: after a time-out there is more to come."""
    one, ten, no, yes = np.ones((1, 1)), np.full((1, 1), 10.0), np.zeros((1, 1), bool), np.ones((1, 1), bool)
    _, fall = gae(one, ten, ten, yes, yes, gamma=0.9, lam=0.95)
    _, time_out = gae(one, ten, ten, no, yes, gamma=0.9, lam=0.95)
    assert float(fall[0, 0]) == pytest.approx(1.0) and float(time_out[0, 0]) == pytest.approx(1 + 0.9 * 10)


def test_nothing_leaks_from_the_next_episode():
    """What comes after an end changes no advantage before it."""
    reward, value, next_value, terminated, done = rollout()
    t, env = np.argwhere(done)[5]
    other = reward.copy()
    other[t + 1 :, env] += 100.0
    first, _ = gae(reward, value, next_value, terminated, done, gamma=0.99, lam=0.95)
    second, _ = gae(other, value, next_value, terminated, done, gamma=0.99, lam=0.95)
    assert np.array_equal(first[: t + 1, env], second[: t + 1, env])
    assert not np.array_equal(first[t + 1 :, env], second[t + 1 :, env])
