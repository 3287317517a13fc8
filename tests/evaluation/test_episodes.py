"""One episode an env, however short, of the deterministic policy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fake_env import FRESH, FakeEnv

from ksim.evaluation.episodes import evaluate
from ksim.rl.actor_critic import GaussianPolicy
from ksim.rl.networks import MLP
from ksim.rl.normalizer import Normalizer

LENGTHS, T = (2, 3, 100, 1, 6), 6


@pytest.fixture(scope="module")
def episodes():
    network = MLP([1, 8, 2], "elu", last_scale=0.01, key=jax.random.key(0))
    policy = GaussianPolicy(Normalizer(jnp.zeros(1), jnp.full(1, 100.0), jnp.array(1.0)), network, jnp.ones(2), None)
    env = FakeEnv(LENGTHS)
    play = jax.jit(partial(evaluate, env, num_envs=5, num_steps=T))
    return policy, play(policy, jax.random.key(1))


def test_only_the_first_episode_counts(episodes):
    """Envs that end early go on with a fresh episode, of which nothing is seen; one that never ends is cut."""
    policy, result = episodes
    lengths = np.minimum(LENGTHS, T)
    np.testing.assert_array_equal(result.values["length"], lengths)
    assert result.terminated.tolist() == [False, True, False, True, False]
    assert result.ends["time_out"].tolist() == [True, False, False, False, True]
    assert result.ends["fell"].tolist() == [False, True, False, True, False]
    for env, length in enumerate(lengths):
        shown = np.arange(length + 1.0)  # what the env shows, from the start to the end of the first episode
        action = policy(jnp.asarray(shown[:-1, None]))[0].mean[:, 0]
        action = np.asarray(action)  # the mean: there is no noise
        assert result.values["return"][env] == pytest.approx(np.sum(shown[1:] + action), rel=1e-4)


def test_the_first_env_is_recorded(episodes):
    policy, result = episodes
    # The last state of an episode, and not the first of the next.
    np.testing.assert_array_equal(result.qpos_Tq[:, 0], [1, 2, FRESH + 1, FRESH + 2, FRESH + 1, FRESH + 2])
    before = jnp.array([0, 1, FRESH, FRESH + 1, FRESH, FRESH + 1])[:, None]
    np.testing.assert_allclose(result.action_Ta, policy(before)[0].mean, rtol=1e-4, atol=1e-6)
    # Commands as they were obeyed: of the state before each step.
    np.testing.assert_array_equal(result.command_Tn["goal"][:3, 0], [0, 1, 0])
