"""Which trainings fit into one program. Nothing is built."""

import pytest

from ksim.config.compose import compose
from ksim.training.packing import packs, varied

TASK = "task=cartpole_balance"
GOAL = "+task.commands.goal={_target_:ksim.mdp.commands.uniform,resampling_time_range_s:null,"


def configs(*jobs: str):
    return [compose([TASK, *job.split()]) for job in jobs]


def test_seeds_and_numbers_train_together():
    jobs = configs(
        "seed=1",
        "seed=2 algo.gamma=0.9",
        "seed=1 task.rewards.upright.weight=0.7 task.rewards.centered.std=0.5",
        "seed=null task.events.reset_pole.position_range=[-0.1,0.3]",
    )
    assert packs(jobs) == [([0, 1, 2, 3], [])]
    found = varied(jobs)
    assert found == {
        "algo.gamma": [0.995, 0.9, 0.995, 0.995],
        "task.rewards.upright.weight": [0.5, 0.5, 0.7, 0.5],
        "task.rewards.centered.std": [1.0, 1.0, 0.5, 1.0],
        "task.events.reset_pole.position_range": [(-0.2, 0.2)] * 3 + [(-0.1, 0.3)],
    }


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ("", "algo.num_envs=128", "algo.num_envs"),
        ("", "algo.actor_hidden=[16]", "algo.actor_hidden"),
        ("", "algo.init_std=0.5", "algo.init_std"),  # the field does not say that it may be traced
        ("", "algo.total_steps=1000", "algo.total_steps"),
        ("", "algo.desired_kl_decay_steps=1000", "algo.desired_kl_decay_steps"),  # None is another program
        ("", "task.rewards.upright.weight=0", "task.rewards.upright.weight"),  # so is a reward that is not evaluated
        ("", "task.sim.timestep=0.005", "task.sim.timestep"),
        ("", "task.rewards.upright=null", "task.rewards.upright"),
        ("physics=mjx", "physics=mujoco", "physics.engine"),
        (GOAL + "low:[0.0],high:[1.0]}", GOAL + "low:[0.0,0.0],high:[1.0,1.0]}", "task.commands.goal."),  # shapes
    ],
)
def test_what_makes_another_program_trains_apart_and_it_is_said_why(one, other, path):
    (first, second) = packs(configs(one, other))
    assert (first.members, first.why_apart, second.members) == ([0], [], [1])
    assert second.why_apart and all(why.startswith(path) for why in second.why_apart)


def test_packs_are_filled_in_order_up_to_their_size():
    jobs = configs("seed=1", "algo.num_envs=128", "seed=2", "seed=3", "algo.num_envs=128 seed=2")
    made = packs(jobs, at_most=2)
    assert [pack.members for pack in made] == [[0, 2], [1, 4], [3]]
    assert [pack.why_apart for pack in made] == [[], ["algo.num_envs"], []]


def test_an_engine_that_is_yet_to_be_chosen_is_the_one_that_was():
    """A run that began has its engine in its frozen config."""
    assert len(packs(configs("physics=auto", "physics=mujoco"))) == 1
