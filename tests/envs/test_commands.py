"""Commands in a task: when they are drawn, what sees them when, and how they are fixed."""

import jax
import numpy as np
import pytest
from scipy import stats
from support.envs import MDP, Player, cartpole_task, kbot_task, same

from ksim.config.schema import ManagerBasedRlEnvCfg
from ksim.envs import make_env
from ksim.envs.tree import with_envs
from ksim.errors import ConfigError

E, T, EPISODE = 64, 60, 25

GOAL = {
    "_target_": f"{MDP}.commands.uniform",
    "low": [-1.0, 2.0],
    "high": [1.0, 3.0],
    "resampling_time_range_s": [0.1, 0.2],
}


def task(**goal) -> ManagerBasedRlEnvCfg:
    terms = {"goal": {"_target_": f"{MDP}.observations.command", "name": "goal"}}
    return cartpole_task(
        commands={"goal": GOAL | goal},
        observations={"actor": {"terms": terms}},
        rewards={"goal": {"_target_": lambda ctx: ctx.command("goal")[0], "weight": 50.0}},
        terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
        episode_length_s=EPISODE * 0.02,
    )


@pytest.fixture(scope="module")
def play():
    player = Player(task())
    _, obs = player.reset(E, random_age=True)
    return player, obs["actor"], player.play(np.zeros((T, E, 1)), random_age=True)


def shown(play):
    """What the policy saw before each step and after the last, (T + 1, E, 2)."""
    _, first, steps = play
    return np.stack([first, *(step.out.obs["actor"] for step in steps)])


def test_commands_hold_for_their_time_and_change_at_a_reset(play):
    """0.1 to 0.2 s are 5 to 10 steps, drawn for each env; nothing but a timer or a reset changes a command."""
    changed = (np.diff(shown(play), axis=0) != 0).all(axis=-1)
    done = np.stack([step.out.done for step in play[2]])
    assert changed[done].all() and done.sum() > E
    gaps = []
    for env in range(E):
        last = None
        for t in range(T):
            if changed[t, env]:
                if last is not None and not done[t, env]:
                    gaps.append(t - last)
                last = t
    assert set(gaps) == {5, 6, 7, 8, 9, 10}


def test_rewards_and_the_terminal_observation_see_the_command_that_was_followed(play):
    """Not the one that is drawn in the same step."""
    for before, step in zip(shown(play), play[2], strict=False):
        np.testing.assert_allclose(step.out.reward, before[:, 0], rtol=1e-5)
        assert np.array_equal(step.out.terminal_obs["actor"], before)


def test_commands_are_drawn_as_they_say(play):
    value = shown(play)
    changed = np.concatenate([np.ones((1, E), bool), (np.diff(value, axis=0) != 0).all(axis=-1)])
    assert stats.kstest(value[changed][:, 0], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(value[changed][:, 1], stats.uniform(2, 1).cdf).pvalue > 1e-3
    assert np.unique(value[changed][:, 0]).size > 0.99 * changed.sum()


def test_a_command_without_a_time_range_holds_for_the_episode():
    player = Player(task(resampling_time_range_s=None))
    _, first = player.reset(E, random_age=True)
    steps = player.play(np.zeros((30, E, 1)), random_age=True)
    value = np.stack([first["actor"], *(step.out.obs["actor"] for step in steps)])
    changed = (np.diff(value, axis=0) != 0).all(axis=-1)
    done = np.stack([step.out.done for step in steps])
    assert np.array_equal(changed, done) and done.sum() >= E


def test_a_reset_draws_no_other_envs_command(play):
    """The others keep command and timer to the bit, whether env 0 ends or not."""
    player, _, steps = play
    step = next(step for step in steps if not step.out.done.any())
    age = step.before.envs.episode_step.copy()
    age[0] = EPISODE
    state, out = player.step(with_envs(step.before, episode_step=age), step.action)
    assert out.done[0] and not out.done[1:].any()
    others = np.arange(1, E)
    assert same(state.envs.memory, step.after.envs.memory, others) and not same(
        state.envs.memory, step.after.envs.memory, [0]
    )


def test_a_fixed_command_is_all_that_is_seen():
    """Everything else of the episode stays as it is, random streams included."""
    drawn, fixed = Player(task()), Player(task(fixed=[0.5, 9.0]))
    a, b = (player.play(np.zeros((3, 4, 1))) for player in (drawn, fixed))
    for step, other in zip(a, b, strict=True):
        for obs in (other.out.obs, other.out.terminal_obs):
            assert np.array_equal(obs["actor"], np.tile(np.float32([0.5, 9.0]), (4, 1)))
        np.testing.assert_allclose(other.out.reward, 0.5, rtol=1e-6)
        assert same(step.after.envs.physics, other.after.envs.physics) and same(
            step.after.envs.key, other.after.envs.key
        )


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ({"goal": GOAL | {"fixed": [1.0]}}, r"task\.commands\.goal\.fixed: has 1 elements; the command has 2"),
        ({"goal": GOAL | {"high": [1.0]}}, r"task\.commands\.goal: low has 2 elements, high 1"),
        (
            {"gaol": GOAL},
            r"task\.rewards\.goal: there is no command 'goal' in task\.commands \(did you mean 'gaol'",
        ),
        ({}, r"task\.rewards\.goal: there is no command 'goal' in task\.commands \(there are none\)"),
        (
            {"goal": {"_target_": lambda ctx, key: ctx.qpos[0], "resampling_time_range_s": [1.0, 1.0]}},
            r"task\.commands\.goal: must return a vector for one env, not an array of shape \(\)",
        ),
        (
            {"goal": {"_target_": lambda ctx, key: None, "resampling_time_range_s": [1.0, 1.0]}},
            r"task\.commands\.goal: must return a vector for one env, not None",
        ),
    ],
)
def test_mistakes_name_their_place(commands, message):
    rewards = {"goal": {"_target_": lambda ctx: ctx.command("goal")[0], "weight": 1.0}}
    with pytest.raises(ConfigError, match=message):
        make_env(cartpole_task(commands=commands, rewards=rewards), "mujoco")


def test_a_velocity_command_mirrors_as_a_motion_over_the_floor():
    """Forward stays, left becomes right, and so does the turn; the command says so, not the observation."""
    velocity = {
        "_target_": f"{MDP}.commands.uniform_velocity",
        "x_range": [-1.0, 1.0],
        "y_range": [-0.5, 0.5],
        "yaw_rate_range": [-1.0, 1.0],
        "resampling_time_range_s": [4.0, 8.0],
    }
    terms = {"velocity": {"_target_": f"{MDP}.observations.command", "name": "twist"}}
    env = make_env(kbot_task(commands={"twist": velocity}, observations={"actor": {"terms": terms}}), "mujoco")
    mirrored = env.symmetry(["actor"]).obs["actor"](np.array([1.0, 2.0, 3.0]))
    assert mirrored.tolist() == [1.0, -2.0, -3.0]
    goal = {"goal": GOAL}
    terms = {"goal": {"_target_": f"{MDP}.observations.command", "name": "goal"}}
    env = make_env(kbot_task(commands=goal, observations={"actor": {"terms": terms}}), "mujoco")
    with pytest.raises(ConfigError, match=r"task\.observations\.actor\.terms\.goal: .*how it mirrors"):
        env.symmetry(["actor"])


def test_heading_is_followed_with_the_base():
    """In an env that goes on, the terminal observation is the next one: it sees its own state's error of heading."""
    velocity = {
        "_target_": f"{MDP}.commands.uniform_velocity",
        "x_range": [0.0, 0.0],
        "y_range": [0.0, 0.0],
        "yaw_rate_range": [-1.0, 1.0],
        "heading_share": 1.0,
        "resampling_time_range_s": [0.06, 0.06],
    }
    terms = {"twist": {"_target_": f"{MDP}.observations.command", "name": "twist"}}
    player = Player(
        kbot_task(
            commands={"twist": velocity},
            observations={"actor": {"terms": terms}},
            events={"spin": {"_target_": f"{MDP}.events.reset_root", "mode": "reset", "ang_vel_range": [2.0, 2.0]}},
        )
    )
    steps = player.play(np.zeros((3, 4, 20)))
    for step in steps[:2]:
        assert np.array_equal(step.out.obs["actor"], step.out.terminal_obs["actor"])
    assert not np.array_equal(steps[0].out.obs["actor"], steps[1].out.obs["actor"])
    assert not np.array_equal(steps[2].out.obs["actor"], steps[2].out.terminal_obs["actor"])  # drawn anew
    assert jax.tree.leaves(steps[2].after.envs.memory)
