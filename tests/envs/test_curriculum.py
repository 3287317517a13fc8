"""Curricula: what they set, when, and that nothing compiles again for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task, host

from ksim.envs import make_env
from ksim.envs.log import summarize
from ksim.errors import ConfigError

E, T, LIFE = 4, 24, 6
CURRICULUM = f"{MDP}.curriculum"


def move(ctx, key, *, by: float):
    return {"qpos": ctx.qpos.at[0].set(by)}


def reaches(ctx, *, limit: float):
    return ctx.episode_step >= limit


def goal(ctx, key, *, range: tuple[float, float]):
    return jax.random.uniform(key, (1,), minval=range[0], maxval=range[1])


@pytest.fixture(scope="module")
def play():
    """Weights, events, commands and terminations that curricula set."""
    player = Player(
        cartpole_task(
            observations={"actor": {"terms": {"goal": {"_target_": f"{MDP}.observations.command", "name": "goal"}}}},
            rewards={
                "one": {"_target_": lambda ctx: jnp.ones(()), "weight": 0.0},
                "own": {"_target_": lambda ctx: ctx.curriculum("weight"), "weight": 1.0},
            },
            terminations={"late": {"_target_": reaches, "limit": 3.0}},
            events={"move": {"_target_": move, "mode": "reset", "by": 0.0}},
            commands={"goal": {"_target_": goal, "resampling_time_range_s": [0.02, 0.02], "range": [0.0, 0.0]}},
            curriculum={
                "weight": {
                    "_target_": f"{CURRICULUM}.linear",
                    "sets": "rewards.one.weight",
                    "start": 1.0,
                    "end": 3.0,
                    "num_steps": 8,
                    "first_step": 2,
                },
                "life": {
                    "_target_": f"{CURRICULUM}.stages",
                    "sets": "terminations.late.limit",
                    "values": [3.0, 6.0],
                    "steps": [6],
                },
                "place": {
                    "_target_": f"{CURRICULUM}.stages",
                    "sets": "events.move.by",
                    "values": [0.0, 0.5],
                    "steps": [6],
                },
                "goals": {
                    "_target_": f"{CURRICULUM}.linear",
                    "sets": "commands.goal.range",
                    "start": [0.0, 0.0],
                    "end": [10.0, 11.0],
                    "num_steps": 10,
                },
            },
            scale_rewards_by_dt=False,
        )
    )
    return player, player.play(np.zeros((T, E, 1)))


def test_a_value_takes_the_place_of_a_weight_step_by_step(play):
    """A step counts with the value that the steps before it have left; terms may read it, too."""
    _, steps = play
    for t, step in enumerate(steps):
        weight = 1.0 + 2.0 * np.clip((t - 2) / 8, 0, 1)
        np.testing.assert_allclose(step.out.reward, 2.0 * weight, rtol=1e-5)


def test_a_reset_sees_the_value_of_the_step_that_ends(play):
    """Episodes of 3 steps until 6 steps are done, then of 6; the reset of the sixth step is the first with the new
    place."""
    _, steps = play
    ends = [t for t, step in enumerate(steps) if step.out.done[0]]
    assert ends == [2, 5, 11, 17, 23]
    places = [float(steps[t].after.envs.physics.qpos[0, 0]) for t in ends]
    assert places == [0.0, 0.5, 0.5, 0.5, 0.5]


def test_ranges_are_set_as_a_whole(play):
    _, steps = play
    for t, step in enumerate(steps):
        share = min((t + 1) / 10, 1.0)
        value = step.out.obs["actor"]
        assert np.all(value >= 10 * share - 1e-5) and np.all(value <= 11 * share + 1e-5)
    assert np.unique(steps[-1].out.obs["actor"]).size == E


def test_values_are_logged_as_the_episodes_end(play):
    _, steps = play
    summary = summarize(steps[5].out.log, 0.02)
    assert summary["curriculum/weight"] == pytest.approx(1.0 + 2.0 * 3 / 8) and summary["curriculum/life"] == 3.0
    assert summarize(steps[6].out.log, 0.02)["curriculum/weight"] is None  # no episode ended
    assert "curriculum/goals" not in summary  # not a number


def test_nothing_compiles_again(play):
    player, _ = play
    assert player._step._cache_size() == 1


def test_the_count_is_part_of_the_state(play):
    """So a training that goes on from a saved state goes on with its values."""
    player, steps = play
    state, _ = player.step(steps[7].after, np.zeros((E, 1)))
    assert int(state.shared.curriculum["num_steps"]) == 9
    value = lambda s: float(s.shared.curriculum["task.curriculum.weight"].value)  # noqa: E731
    assert value(state) == value(steps[8].after) != value(steps[7].after)


def test_a_level_follows_the_length_of_the_episodes():
    """Up by the share of long episodes and down by that of short ones, within its ends."""
    player = Player(
        cartpole_task(
            terminations={
                "time_out": {"_target_": f"{MDP}.terminations.time_out"},
                "left": {"_target_": lambda ctx: (ctx.joint_pos[0] < -0.2) & (ctx.episode_step == 2)},
            },
            events={"joints": {"_target_": f"{MDP}.events.reset_joints", "mode": "reset", "joints": "slider",
                               "position_range": [-0.5, 0.5]}},
            curriculum={
                "level": {
                    "_target_": f"{CURRICULUM}.by_episode_length",
                    "start": [0.0, 10.0],
                    "end": [1.0, 30.0],
                    "long_steps": LIFE,
                    "short_steps": 3,
                    "rate": 0.9,
                }
            },
            episode_length_s=LIFE * 0.02,
        )
    )  # fmt: skip
    level, length, changes, levels = 0.0, np.zeros(16), set(), set()
    for step in player.play(np.zeros((30, 16, 1))):
        length += 1
        long, short = step.out.done & (length >= LIFE), step.out.done & (length < 3)
        change = 0.9 * (long.mean() - short.mean())
        level = np.clip(level + change, 0.0, 1.0)
        changes.add(np.sign(change))
        levels.add(level)
        value = step.after.shared.curriculum["task.curriculum.level"].value
        np.testing.assert_allclose(value, [level, 10 + 20 * level], rtol=1e-5, atol=1e-6)
        length[step.out.done] = 0
    assert changes == {-1.0, 0.0, 1.0} and {0.0, 1.0} < levels


LINEAR = {"_target_": f"{CURRICULUM}.linear", "start": 0.0, "end": 1.0, "num_steps": 10}
MISTAKES = [
    ({"sets": "weight"}, r"task\.curriculum\.c: 'sets' must be <manager>\.<term>\.<parameter>"),
    ({"sets": "observations.actor.x"}, r"task\.curriculum\.c: 'sets' must be .*'commands', 'events'"),
    ({"sets": "rewards.aliv.weight"}, r"task\.curriculum\.c\.sets: task\.rewards has no 'aliv' \(did you mean 'alive'"),
    (
        {"sets": "rewards.upright.stdd"},
        r"task\.curriculum\.c\.sets: task\.rewards\.upright has no parameter 'stdd' \(did you mean 'std'\?\)",
    ),
    ({"end": [1.0, 2.0]}, r"task\.curriculum\.c: start = 0.0 and end = .* must have the same length"),
    (
        {"_target_": f"{CURRICULUM}.stages", "values": [1.0, 2.0], "steps": [1, 2]},
        r"task\.curriculum\.c: 2 values need 1 rising steps, not \[1, 2\]",
    ),
]


@pytest.mark.parametrize(("params", "message"), MISTAKES)
def test_mistakes_name_their_place(params, message):
    rewards = {
        "alive": {"_target_": f"{MDP}.rewards.alive", "weight": 1.0},
        "upright": {"_target_": f"{MDP}.rewards.pole_upright", "joint": "hinge", "weight": 1.0},
    }
    if "upright" in str(params):
        rewards["upright"] = {"_target_": lambda ctx, *, std: ctx.joint_pos[0], "std": 1.0, "weight": 1.0}
    params = params if "_target_" in params else LINEAR | params
    with pytest.raises(ConfigError, match=message):
        make_env(cartpole_task(rewards=rewards, curriculum={"c": params}), "mujoco")


def test_a_state_without_curricula_carries_nothing():
    state, _ = Player(cartpole_task()).reset(2)
    assert host(state.shared.curriculum) == {}
