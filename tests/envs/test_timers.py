"""Seconds as counts of steps: one conversion for what is drawn and for the buffers that hold it."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ksim.envs.managers.delay import delay
from ksim.envs.managers.timers import draw_steps, nearest_steps
from ksim.envs.settings import DelayCfg

STEPS = ["0.001", "0.002", "0.004", "0.005", "0.01", "0.02", "0.025", "0.05", "0.1"]
QUARTERS = range(81)  # of a step: whole ones, halves, and between them


def exactly(dt: str, quarters: int) -> tuple[float, int]:
    """So many quarters of a step as people write the seconds, and the steps that come nearest, halves up."""
    seconds = Fraction(dt) * quarters / 4
    return float(seconds), math.floor(Fraction(quarters, 4) + Fraction(1, 2))


@pytest.mark.parametrize("dt", STEPS)
def test_times_become_steps_as_exact_numbers_do(dt):
    """What is drawn from a range of one time is what a buffer is made for, at halves as well."""
    draw = jax.jit(lambda key, low, high: draw_steps(key, (low, high), float(dt), at_least=0))
    for quarters in QUARTERS:
        seconds, expected = exactly(dt, quarters)
        assert nearest_steps(seconds, float(dt)) == expected, seconds
        if quarters % 4 == 2:
            drawn = draw_steps(jax.random.key(quarters), (seconds, seconds), float(dt), at_least=0)
            assert int(drawn) == expected, seconds
            driven = draw(jax.random.key(quarters), jnp.float32(seconds), jnp.float32(seconds))  # by a curriculum
            assert int(driven) == expected and driven.dtype == jnp.int32, seconds


@pytest.mark.parametrize(("range_s", "dt"), [((0.075, 0.125), 0.05), ((0.0, 0.015), 0.01), ((0.03, 0.09), 0.02)])
def test_draws_stay_between_what_the_ends_take(range_s, dt):
    low, high = (nearest_steps(t, dt) for t in range_s)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: draw_steps(key, range_s, dt, at_least=0))(keys))
    assert set(range(low, high)) <= set(drawn) <= set(range(low, high + 1))  # an end that is a half has no share


@pytest.mark.parametrize(("range_s", "expected"), [((0.0, 0.0), {1}), ((0.0, 0.004), {1}), ((0.0, 0.04), {1, 2})])
def test_what_repeats_takes_a_step_at_least(range_s, expected):
    """Else a command, say, would be drawn anew at no time at all."""
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(lambda key: draw_steps(key, range_s, 0.02))(keys)
    assert set(np.asarray(drawn).tolist()) == expected


def test_an_observation_of_one_and_a_half_steps_is_two_steps_old():
    """0.075 / 0.05 is 1.4999999999999998 in Python and 1.5 in float32."""
    cfg, line, seen = DelayCfg(range_s=(0.075, 0.075)), None, []
    for t in range(6):
        frame = jnp.array([float(t)])
        value, line = delay(cfg, line, frame, jax.random.key(t), t == 0, 0.05)
        seen.append(float(value[0]))
    assert line.frames.shape == (3, 1) and int(line.lag) == 2
    assert seen == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
