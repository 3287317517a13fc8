"""Observation groups: noise, clip, scale and order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.envs import MDP, Player, cartpole_task

from ksim.envs.managers.observations import apply_noise
from ksim.envs.terms import NoiseCfg

VALUE = jnp.array([1.0, -2.0, 0.5])
KEYS = jax.random.split(jax.random.key(0), 3000)


def draws(**noise):
    cfg = NoiseCfg(**noise)
    return np.asarray(jax.jit(jax.vmap(lambda key: apply_noise(cfg, VALUE, key)))(KEYS))


OPERATIONS = {"add": lambda x: x - VALUE, "scale": lambda x: x / VALUE, "replace": lambda x: x}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_noise_is_distributed_as_it_says(operation):
    undo = OPERATIONS[operation]
    uniform = undo(draws(type="uniform", low=-0.3, high=0.1, operation=operation))
    gaussian = undo(draws(type="gaussian", mean=0.2, std=0.5, operation=operation))
    for element in range(3):
        assert stats.kstest(uniform[:, element], stats.uniform(-0.3, 0.4).cdf).pvalue > 1e-3
        assert stats.kstest(gaussian[:, element], stats.norm(0.2, 0.5).cdf).pvalue > 1e-3
    correlation = np.corrcoef(uniform.T) - np.eye(3)
    assert np.abs(correlation).max() < 0.07  # each element is drawn for itself
    np.testing.assert_allclose(undo(draws(type="constant", value=0.7, operation=operation)), 0.7, rtol=1e-5)


E = 1500


@pytest.fixture(scope="module")
def observed():
    """At home, where every observation is 0 but for noise: a reset and two steps of 1,500 envs."""

    def zeros(ctx):
        return jnp.zeros(2)

    noisy = {"_target_": zeros, "noise": {"type": "uniform", "low": -1.0, "high": 1.0}}
    terms = {
        "plain": noisy,
        "clipped": {**noisy, "clip": [-0.5, 0.25]},
        "scaled": {**noisy, "clip": [-0.5, 0.25], "scale": [10.0, 100.0]},
        "scalar": {"_target_": lambda ctx: jnp.float32(3.0), "scale": 2.0},
    }
    player = Player(
        cartpole_task(
            observations={
                "actor": {"terms": terms, "enable_corruption": True},
                "critic": {"terms": terms},
                "other": {"terms": {"b": terms["scaled"], "a": terms["scalar"]}, "concatenate": False},
            }
        )
    )
    state, obs = player.reset(E)
    _, one = player.step(state, np.zeros((E, 1)))
    return player.env, obs, one


def test_corruption_is_the_groups_switch(observed):
    """The same terms are noisy for the actor and clean for the critic."""
    _, obs, step = observed
    for group in (obs, step.obs, step.terminal_obs):
        np.testing.assert_array_equal(group["critic"], np.tile([0, 0, 0, 0, 0, 0, 6.0], (E, 1)))
        assert stats.kstest(group["actor"][:, 0], stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_noise_is_drawn_anew_for_each_env_term_and_step(observed):
    _, obs, step = observed
    columns = [obs["actor"][:, 0], obs["actor"][:, 1], step.obs["actor"][:, 0], step.terminal_obs["actor"][:, 0]]
    assert np.unique(np.concatenate(columns)).size > 4 * E - 20  # floats may coincide
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.1
    clipped = obs["actor"][:, 2]
    assert abs(np.corrcoef(obs["actor"][:, 0], clipped)[0, 1]) < 0.1


def test_noise_then_clip_then_scale(observed):
    """A noise of [-1, 1] clipped to [-0.5, 0.25]: a quarter lies at the one end, 0.375 at the other."""
    _, obs, _ = observed
    clipped, scaled = obs["actor"][:, 2:4], obs["actor"][:, 4:6]
    assert clipped.min() == -0.5 and clipped.max() == 0.25
    assert np.mean(clipped == -0.5) == pytest.approx(0.25, abs=0.04)
    assert np.mean(clipped == 0.25) == pytest.approx(0.375, abs=0.04)
    for column, factor in ((0, 10.0), (1, 100.0)):
        assert scaled[:, column].min() == -0.5 * factor and scaled[:, column].max() == 0.25 * factor


def test_groups_are_vectors_or_dictionaries_in_the_terms_order(observed):
    env, obs, _ = observed
    assert env.obs_sizes == {
        "actor": {"plain": 2, "clipped": 2, "scaled": 2, "scalar": 1},
        "critic": {"plain": 2, "clipped": 2, "scaled": 2, "scalar": 1},
        "other": {"b": 2, "a": 1},
    }
    assert obs["actor"].shape == (E, 7)
    assert obs["other"]["b"].shape == (E, 2) and (obs["other"]["a"] == 6.0).all()


def test_a_term_that_reads_a_derived_field_makes_the_engine_carry_it():
    """And nothing else is carried."""
    terms = {"force": {"_target_": f"{MDP}.observations.actuator_force"}}
    env = Player(cartpole_task(observations={"actor": {"terms": terms}})).env
    assert env.physics.fields == ("actuator_force",)
    assert Player(cartpole_task()).env.physics.fields == ()
