"""When episodes begin and end: random ages in training, no end where no term asks for one."""

import numpy as np
from scipy import stats
from support.envs import MDP, Player, cartpole_task

from ksim.envs.tree import with_envs


def test_training_starts_at_random_ages_and_an_evaluation_at_zero():
    """Uniform over the episode, so that time-outs do not come all at once."""
    time_out = {"time_out": {"_target_": f"{MDP}.terminations.time_out"}}
    player = Player(cartpole_task(terminations=time_out, episode_length_s=20.0))
    ages = player.reset(10_000, random_age=True)[0].envs.episode_step
    assert stats.kstest(ages + np.random.default_rng(0).uniform(size=len(ages)), "uniform", (0, 1000)).pvalue > 0.01
    assert not player.reset(10, random_age=False)[0].envs.episode_step.any()


def test_without_a_termination_episodes_never_end():
    player = Player(cartpole_task(episode_length_s=0.1))
    steps = player.play(np.ones((40, 3, 1)))
    assert not any(step.out.done.any() for step in steps)
    assert (steps[-1].after.envs.episode_step == 40).all()
    old = with_envs(steps[-1].after, episode_step=np.int32([1_000, 1_000_000, 1_000_000_000]))
    assert not player.step(old, np.ones((3, 1)))[1].done.any()


def test_a_finite_horizon_is_still_told_from_a_fall():
    """Only the stateful faces and the learner take it for the end of everything."""
    time_out = {"time_out": {"_target_": f"{MDP}.terminations.time_out"}}
    player = Player(cartpole_task(terminations=time_out, episode_length_s=0.02, is_finite_horizon=True))
    (step,) = player.play(np.zeros((1, 2, 1)))
    assert step.out.truncated.all() and not step.out.terminated.any()
