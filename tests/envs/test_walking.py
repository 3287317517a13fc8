"""The task of walking, with K-Bot: it is built from parts alone, and tells standing from walking."""

import numpy as np
import pytest
from support.envs import Player

from ksim.config.compose import compose
from ksim.envs import make_env

SMALL = ["task=kbot_walking", "algo.num_envs=2", "algo.num_env_states_per_minibatch=8"]


def task(*overrides):
    return compose([*SMALL, *overrides]).task


@pytest.mark.parametrize("engine", ["mujoco", "mjx"])
def test_it_is_built(engine):
    """Each term is traced; the actor sees neither velocity nor contacts; both groups mirror into themselves."""
    env = make_env(task(), engine, 1)
    assert not {"lin_vel", "height", "contacts", "clearance"} & set(env.obs_sizes["actor"])
    assert {"lin_vel", "height", "contacts", "clearance"} < set(env.obs_sizes["critic"])
    for group, image in env.symmetry().obs.items():
        x = np.arange(1.0, 1 + sum(env.obs_sizes[group].values()))
        np.testing.assert_array_equal(image(image(x)), x)
        assert (image(x) != x).any()


def test_a_robot_that_is_asked_to_stand_stands_and_one_that_is_asked_to_walk_steps():
    """With actions of zeros: the clock and the feet that follow it."""
    found = []
    for asked in ("[0.0,0.0,0.0]", "[0.5,0.0,0.0]"):
        quiet = ["task.events.push=null", "task.observations.actor.enable_corruption=false"]
        player = Player(task(f"++task.commands.velocity.fixed={asked}", *quiet))
        state, _ = player.reset(2)
        clock = player.env.commands.values(state.envs.memory)["gait"]
        for _ in range(20):
            state, out = player.step(state, np.zeros((2, player.env.action_size)))
        found.append((np.linalg.norm(clock, axis=-1), out.episode["metric/feet_down"], out.episode["metric/flight"]))
    (stopped, standing, flies), (runs, stepping, _) = found
    np.testing.assert_array_equal(stopped, 0)
    np.testing.assert_allclose(runs, 1, rtol=1e-5)
    assert (standing > 0.9).all() and (flies == 0).all()  # a foot may leave the ground for a step as the pose settles
    assert ((stepping > 0.4) & (stepping < 0.9)).all()


@pytest.mark.training  # it learns nothing, but compiles for a minute
def test_it_steps_on_mjx():
    player = Player(task(), "mjx")
    state, _ = player.reset(2)
    state, out = player.step(state, np.zeros((2, player.env.action_size)))
    assert np.isfinite(out.reward).all() and np.isfinite(out.obs["critic"]).all() and not out.done.any()
