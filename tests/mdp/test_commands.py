"""Command terms: what they draw, and what becomes of it as the robot moves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation
from support import plain
from support.terms import context, simulation

from ksim.envs.managers import CommandManager
from ksim.envs.settings import CommandSettings
from ksim.envs.terms import resolve
from ksim.errors import ConfigError
from ksim.mdp import commands

KEYS = jax.random.split(jax.random.key(0), 100_000)
RANGES = {"x_range": (-0.5, 1.0), "y_range": (-0.3, 0.3), "yaw_rate_range": (-1.0, 0.5)}


def draws(ctx, **params):
    """Goals of 100,000 draws, and their values."""
    command = commands.uniform_velocity(**(RANGES | params))

    def draw(key):
        goal = command.init(ctx, key)
        return goal, command(ctx, goal)[0]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(KEYS))


def uniform(values, low, high):
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_velocities_and_shares_follow_their_distributions(kbot):
    """Kolmogorov-Smirnov over 100,000 draws; shares within four standard errors, independent of each other."""
    goal, value = draws(context(kbot, simulation(kbot)), standing_share=0.1, heading_share=0.3)
    standing, heading = goal.is_standing, goal.is_heading
    assert abs(standing.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / len(KEYS))
    assert abs(heading[~standing].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / np.sum(~standing))
    assert not value[standing].any()
    assert uniform(value[~standing, 0], -0.5, 1.0) and uniform(value[~standing, 1], -0.3, 0.3)
    assert uniform(value[~standing & ~heading, 2], -1.0, 0.5)
    assert uniform(goal.heading, -np.pi, np.pi)
    assert np.abs(np.corrcoef(value[~standing & ~heading].T) - np.eye(3)).max() < 0.02


def test_a_heading_turns_the_short_way_to_it(kbot):
    """The yaw rate is the gain times the error of the heading, in (-pi, pi], within its range."""
    data = simulation(kbot)
    for yaw in (-3.0, 0.4, 2.5):
        qpos = data.qpos.copy()
        qpos[3:7] = Rotation.from_euler("ZYX", [yaw, 0.2, -0.1]).as_quat(scalar_first=True)
        ctx = context(kbot, plain.make(kbot.model, qpos))
        goal, value = draws(ctx, heading_share=1.0, heading_gain=0.4)
        error = np.angle(np.exp(1j * (goal.heading - yaw)))
        np.testing.assert_allclose(value[:, 2], np.clip(0.4 * error, -1.0, 0.5), atol=1e-5)
        assert (value[:, 2] == -1.0).any() and (value[:, 2] == 0.5).any()


@pytest.mark.parametrize("share", ["standing_share", "heading_share"])
def test_shares_are_probabilities(share):
    with pytest.raises(ConfigError, match=f"{share}: must be from 0 to 1, not 1.5"):
        commands.uniform_velocity(**RANGES, **{share: 1.5})


def test_uniform_draws_each_element_in_its_range(cartpole):
    ctx = context(cartpole, simulation(cartpole))
    value = np.asarray(jax.jit(jax.vmap(lambda k: commands.uniform(ctx, k, low=(-1.0, 2.0), high=(0.0, 5.0))))(KEYS))
    assert uniform(value[:, 0], -1, 0) and uniform(value[:, 1], 2, 5)
    assert abs(np.corrcoef(value.T)[0, 1]) < 0.02
    assert value.dtype == jnp.float32


class height(eqx.Module):  # noqa: N801
    def init(self, ctx, key):
        return jnp.zeros(())

    def __call__(self, ctx, carry):
        return ctx.base_pos[2:], carry


class twice(height):  # noqa: N801
    def __call__(self, ctx, carry):
        return 2.0 * ctx.command("height"), carry


def test_a_command_sees_what_those_before_it_are_by_now(kbot):
    """In a terminal observation, too, for which nothing is drawn."""
    terms = {kind.__name__: {"_target_": kind, "resampling_time_range_s": None} for kind in (height, twice)}
    manager = CommandManager(resolve("task.commands", terms, CommandSettings), 0.02)
    data = plain.make(kbot.model, kbot.home_qpos)
    memory = manager.advance(context(kbot, data), jax.random.key(0), True)
    for renew in (lambda ctx: manager.advance(ctx, jax.random.key(1), False), manager.refresh):
        data.qpos[2] += 0.5
        memory = renew(context(kbot, data, memory=memory))
        found = manager.values(memory)
        np.testing.assert_allclose(found["height"], data.qpos[2:3], rtol=1e-6)
        np.testing.assert_allclose(found["twice"], 2.0 * data.qpos[2:3], rtol=1e-6)
