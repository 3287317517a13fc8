"""Termination terms against what MuJoCo measures."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support import plain
from support.terms import context, simulation

from ksim.mdp import terminations
from ksim.mdp.quantities import Share


def placed(kbot, *, rpy=(0.0, 0.0, 0.0), pos=(0.0, 0.0, 1.0)):
    qpos = kbot.home_qpos.copy()
    qpos[:3] = pos
    qpos[3:7] = Rotation.from_euler("xyz", rpy).as_quat(scalar_first=True)
    return context(kbot, plain.make(kbot.model, qpos))


@pytest.mark.parametrize(
    ("rpy", "ends"),
    [
        ((0.49, 0, 0), False),
        ((0, -0.51, 0), True),
        ((0, 0, 3.0), False),
        ((0.36, 0.36, 1.0), True),
        ((3.1, 0, 0), True),
    ],
)
def test_bad_orientation_is_the_lean_whatever_the_heading(kbot, rpy, ends):
    up = Rotation.from_euler("xyz", rpy).as_matrix()[2, 2]
    assert (np.arccos(up) > 0.5) == ends  # what it means
    assert bool(terminations.bad_orientation(placed(kbot, rpy=rpy), limit_rad=0.5)) == ends


def test_low_height(kbot):
    for height, ends in ((0.49, True), (0.51, False)):
        assert bool(terminations.low_height(placed(kbot, pos=(9.0, 9.0, height)), limit=0.5)) == ends


@pytest.mark.parametrize(
    ("pos", "ends"), [((0, 0), False), ((1.1, 0), True), ((-2.1, 0), True), ((0, 3.1), True), ((0, -99), False)]
)
def test_out_of_range_is_a_rectangle(kbot, pos, ends):
    """A missing range is no limit; one of -100 to 3 is not symmetric."""
    ctx = placed(kbot, pos=(*pos, 1.0))
    assert bool(terminations.out_of_range(ctx, x_range=(-2.0, 1.0), y_range=(-100.0, 3.0))) == ends
    assert not bool(terminations.out_of_range(ctx))


def test_joint_out_of_range(cartpole):
    data = simulation(cartpole)
    for angle, ends in ((0.31, True), (-0.31, True), (0.29, False)):
        data.joint("hinge").qpos = angle
        assert bool(terminations.joint_out_of_range(context(cartpole, data), joints="hinge", limit=0.3)) == ends


@pytest.mark.parametrize(("field", "value"), [("qpos", np.nan), ("qvel", np.inf)])
def test_nan_sees_a_state_that_is_not_finite(kbot, field, value):
    data = simulation(kbot)
    assert not bool(terminations.nan(context(kbot, data)))
    getattr(data, field)[4] = value
    assert bool(terminations.nan(context(kbot, data)))


def test_nan_sees_what_the_guard_has_put_back(kbot):
    assert bool(terminations.nan(context(kbot, simulation(kbot), diverged=jnp.array(True))))


def test_time_out_counts_steps(kbot):
    for steps, ends in ((99, False), (100, True), (101, True)):
        ctx = context(kbot, simulation(kbot), episode_step=steps)
        assert bool(terminations.time_out(ctx)) == ends


def test_a_height_may_be_a_share_of_the_robots(kbot):
    share = Share(of_home_height=0.8)
    for height, ends in ((0.79 * kbot.home_qpos[2], True), (0.81 * kbot.home_qpos[2], False)):
        assert bool(terminations.low_height(placed(kbot, pos=(0.0, 0.0, height)), limit=share)) == ends
