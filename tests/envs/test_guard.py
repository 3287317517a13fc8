"""What is not finite: states, which the NaN guard catches, and rewards."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task, same

from ksim.config import SimCfg

E = 4


def poison(ctx, key):
    """Breaks the envs whose cart is right of 0.5 m."""
    return {"qvel": jnp.where(ctx.qpos[0] > 0.5, jnp.nan, ctx.qvel)}


def root(ctx):
    """NaN where the cart is left of the middle."""
    return jnp.sqrt(ctx.joint_pos[0])


def blow_up(ctx):
    return 1.0 / jnp.maximum(ctx.joint_pos[0], 0.0)


def task(**sim):
    return cartpole_task(
        sim=SimCfg(timestep=0.01, **sim),
        rewards={
            "one": {"_target_": lambda ctx: jnp.float32(1.0), "weight": 3.0},
            "root": {"_target_": root, "weight": 1.0},
            "blow_up": {"_target_": blow_up, "weight": -1.0},
        },
        terminations={"nan": {"_target_": f"{MDP}.terminations.nan"}},
        metrics={"speed": {"_target_": lambda ctx: jnp.abs(ctx.joint_vel[0]), "reduce": "max"}},
        events={
            "joints": {"_target_": f"{MDP}.events.reset_joints", "mode": "reset", "position_range": [-0.1, 0.1]},
            "poison": {"_target_": poison, "mode": "step"},
        },
    )


@pytest.fixture(scope="module")
def player():
    return Player(task())


def placed(state, qpos, qvel=None):
    """A state with the carts (and poles) elsewhere."""
    qvel = np.zeros((E, 2)) if qvel is None else np.asarray(qvel)
    physics = replace(state.physics, qpos=np.asarray(qpos, np.float32), qvel=qvel.astype(np.float32))
    return replace(state, physics=physics)


GOOD = [[0.1, 0.0], [0.2, 0.1], [0.3, -0.1], [0.4, 0.05]]


@pytest.fixture(scope="module")
def start(player):
    return player.reset(E)[0]


def finite(tree):
    import jax

    return all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("kind", ["event", "huge"])
def test_a_broken_env_is_reset_counted_and_alone(player, start, kind):
    """Whether an event writes NaN or the state is larger than 1e10: that env ends, the others keep every bit."""
    action = np.full((E, 1), 0.3, np.float32)
    good_state, good = player.step(placed(start, GOOD), action)
    qpos, qvel = np.array(GOOD), np.zeros((E, 2))
    if kind == "event":
        qpos[2, 0] = 0.6
    else:
        qvel[2, 0] = 1e11
    state, out = player.step(placed(start, qpos, qvel), action)

    assert out.terminated.tolist() == [False, False, True, False] and not out.truncated.any()
    assert out.log["nan_guard"] == 1 and good.log["nan_guard"] == 0
    assert out.log["termination/nan"] == 1 and out.ends["nan"].tolist() == [False, False, True, False]
    assert out.reward[2] == 0
    assert np.abs(state.physics.qpos[2]).max() <= 0.1 and state.episode_step[2] == 0
    others = [0, 1, 3]
    for got, expected in ((state.physics, good_state.physics), (out.obs, good.obs), (out.reward, good.reward)):
        assert same(got, expected, others)
    assert finite((state.physics, out.obs, out.terminal_obs, out.reward, out.log))
    # The episode of the broken env is worth what it was before.
    assert out.episode["return"][2] == 0 and out.episode["length"][2] == 1


def test_the_first_offender_of_a_run_is_kept(player, start):
    """With what its step started from, so that it can be replayed; a second one does not take its place."""
    assert not start.offender.found
    action = np.array([[0.1], [0.2], [0.3], [0.4]], np.float32)
    good, _ = player.step(placed(start, GOOD), action)
    assert not good.offender.found

    first = placed(good, [[0.1, 0], [0.7, 0.2], [0.8, 0], [0.1, 0]])
    state, out = player.step(first, action)
    assert out.log["nan_guard"] == 2 and state.offender.found
    np.testing.assert_array_equal(state.offender.qpos, np.float32([0.7, 0.2]))
    assert np.isnan(state.offender.qvel).all()  # as the event left it
    np.testing.assert_allclose(state.offender.ctrl, [2.0])  # 10 N an action unit

    second, out = player.step(placed(state, [[0.9, 0.5], [0.1, 0], [0.1, 0], [0.1, 0]]), action)
    assert out.log["nan_guard"] == 1
    assert same(second.offender, state.offender)


def test_without_the_guard_a_broken_state_is_there_to_be_judged(start):
    state, out = Player(task(nan_guard=False)).step(placed(start, [[0.6, 0.0], *GOOD[1:]]), np.zeros((E, 1)))
    assert np.isnan(out.terminal_obs["actor"][0]).any()
    assert out.terminated.tolist() == [True, False, False, False] and out.log["nan_guard"] == 0
    assert finite(state.physics.qpos[1:])


def test_rewards_that_are_not_finite_count_as_zero(player, start):
    """They are counted by term; the other terms and the other envs keep their rewards."""
    qpos = [[-0.2, 0.0], [0.25, 0.0], [-0.3, 0.0], [0.36, 0.0]]
    _, out = player.step(placed(start, qpos), np.zeros((E, 1)))
    assert out.log["not_finite/root"] == 2 and out.log["not_finite/blow_up"] == 2 and out.log["not_finite/one"] == 0
    expected = 0.02 * np.array([3.0, 3.0 + 0.5 - 4.0, 3.0, 3.0 + 0.6 - 1 / 0.36])
    np.testing.assert_allclose(out.reward, expected, rtol=1e-4)
    assert finite(out.episode) and not out.done.any()
