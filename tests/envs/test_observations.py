"""Observation groups: noise, clip, scale and order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.envs import MDP, Player, cartpole_task

from ksim.envs.managers.noise import apply_noise
from ksim.envs.settings import NoiseCfg

VALUE = jnp.array([1.0, -2.0, 0.5])
KEYS = jax.random.split(jax.random.key(0), 100_000)


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
    assert np.abs(correlation).max() < 0.02  # each element is drawn for itself
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


def clock(ctx):
    """Far from zero, so that a buffer of zeros would show."""
    return 1000.0 + ctx.episode_step


STEPS, LIFE = 30, 12
CLOCK = {"_target_": clock}


@pytest.fixture(scope="module")
def late():
    """Episodes of 12 steps whose observations arrive late: what each group shows of the clock, (STEPS + 1, E, n)."""
    bias = CLOCK | {"bias": {"type": "uniform", "low": -2.0, "high": 3.0}}
    player = Player(
        cartpole_task(
            observations={
                "late": {"terms": {"c": CLOCK | {"delay": {"range_s": [0.04, 0.04]}}}},
                "spread": {"terms": {"c": CLOCK | {"delay": {"range_s": [0.0, 0.1]}}}},
                "jumpy": {"terms": {"c": CLOCK | {"delay": {"range_s": [0.0, 0.1], "hold_probability": 0.8}}}},
                "past": {"terms": {"c": CLOCK | {"history": 3}}},
                "both": {"terms": {"c": CLOCK | {"history": 2, "scale": 2.0, "delay": {"range_s": [0.02, 0.02]}}}},
                "together": {
                    "terms": {"a": CLOCK | {"history": 9}, "b": CLOCK | {"delay": {"range_s": [0.5, 0.5]}}},
                    "delay": {"range_s": [0.0, 0.1]},
                    "history": 2,
                },
                "biased": {"terms": {"c": bias, "d": bias}, "enable_corruption": True},
                "clean": {"terms": {"c": bias}},
            },
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            episode_length_s=LIFE * 0.02,
        )
    )
    state, first = player.reset(E, random_age=True)
    steps = player.play(np.zeros((STEPS, E, 1)), random_age=True)
    shown = {name: np.stack([first[name], *(step.out.obs[name] for step in steps)]) for name in first}
    start = np.zeros((STEPS + 1, E))  # what the clock showed when the episode started
    start[0] = 1000 + state.envs.episode_step
    for t, step in enumerate(steps):
        start[t + 1] = np.where(step.out.done, 1000, start[t])
    now = np.stack([1000 + state.envs.episode_step, *(1000 + step.after.envs.episode_step for step in steps)])
    return player.env, steps, shown, now, start


def test_delays_look_back_and_start_with_the_first_frame(late):
    env, _, shown, now, start = late
    assert np.array_equal(shown["late"][:, :, 0], np.maximum(now - 2, start))
    assert env.obs_sizes["past"] == {"c": 3} and env.obs_sizes["together"] == {"a": 2, "b": 2}


def test_histories_show_the_oldest_first(late):
    _, _, shown, now, start = late
    past = np.stack([np.maximum(now - age, start) for age in (2, 1, 0)], axis=-1)
    assert np.array_equal(shown["past"], past)


def test_scale_comes_before_delay_and_delay_before_history(late):
    _, _, shown, now, start = late
    both = np.stack([np.maximum(now - age, start) for age in (2, 1)], axis=-1)
    assert np.array_equal(shown["both"], 2.0 * both)


def lags(late, group, column=0):
    """How old what is shown is, where it is not the first frame; else NaN."""
    _, _, shown, now, start = late
    seen = shown[group][:, :, column]
    return np.where(seen > start, now - seen, np.nan)


def test_a_delay_is_drawn_for_each_env_and_episode(late):
    """0 to 0.1 s are 0 to 5 steps, rounded: the ends are half as likely."""
    _, steps, _, now, start = late
    lag = lags(late, "spread")
    episode = np.cumsum([np.zeros(E, bool), *(step.out.done for step in steps)], axis=0)
    drawn = []
    for count in range(episode.max() + 1):
        of_it = np.where(episode == count, lag, np.nan)
        complete = np.nanmax(np.where(episode == count, now - start, 0), axis=0) > 5
        whole = of_it[:, complete]
        assert (np.nanmax(whole, axis=0) == np.nanmin(whole, axis=0)).all()  # one per episode
        drawn.append(np.nanmax(whole, axis=0))
    share = np.bincount(np.concatenate(drawn).astype(int), minlength=6) / sum(map(len, drawn))
    np.testing.assert_allclose(share, [0.1, 0.2, 0.2, 0.2, 0.2, 0.1], atol=0.04)


def test_a_delay_is_held_with_its_probability(late):
    """Of those that are drawn anew, some come out the same: 0.18 of draws over 0 to 5 steps."""
    _, _, _, now, start = late
    lag = lags(late, "jumpy")
    both = (now - start > 5)[:-1] & (now - start > 5)[1:] & (np.diff(now, axis=0) > 0)
    held = (np.diff(lag, axis=0) == 0)[both]
    assert held.mean() == pytest.approx(0.8 + 0.2 * 0.18, abs=0.02)


def test_a_groups_delay_is_that_of_all_its_terms(late):
    _, _, shown, _, _ = late
    assert np.array_equal(shown["together"][:, :, :2], shown["together"][:, :, 2:])
    assert np.nanmax(lags(late, "together", 1)) == 5


def test_a_bias_is_drawn_once_an_episode(late):
    """For each env and term; where the group is not corrupted, there is none."""
    _, steps, shown, now, _ = late
    bias = shown["biased"] - now[:, :, None]
    done = np.stack([step.out.done for step in steps])
    changed = (np.abs(np.diff(bias, axis=0)) > 1e-3).all(axis=-1)
    assert np.array_equal(changed, done)
    drawn = bias[np.concatenate([np.ones((1, E), bool), done])]
    for column in range(2):
        assert stats.kstest(drawn[:, column], stats.uniform(-2, 5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.1
    assert np.array_equal(shown["clean"][:, :, 0], now)


def test_a_terminal_observation_leaves_nothing_in_the_buffers(late):
    """It shows what the next observation would, in envs that go on and in those that end."""
    _, steps, shown, _, start = late
    for t, step in enumerate(steps):
        on = ~step.out.done
        for group in ("late", "spread", "past", "both", "together", "biased"):
            assert np.array_equal(step.out.terminal_obs[group][on], shown[group][t + 1][on])
        assert np.array_equal(step.out.terminal_obs["late"][~on, 0], np.maximum(1000 + LIFE - 2, start[t])[~on])


def sometimes(ctx):
    """Not finite in the fifth step, in envs whose cart is right of the middle."""
    bad = (ctx.episode_step == 5) & (ctx.joint_pos[0] > 0)
    return jnp.stack([jnp.where(bad, jnp.nan, 1.0), jnp.where(bad, -jnp.inf, 2.0)])


def groups(**policies):
    terms = {"s": {"_target_": sometimes, "scale": 3.0, "history": 2}}
    joints = {"_target_": f"{MDP}.events.reset_joints", "mode": "reset", "position_range": [-0.2, 0.2]}
    return {
        "observations": {name: {"terms": terms, "nan_policy": policy} for name, policy in policies.items()},
        "events": {"joints": joints},
    }


def test_what_is_not_finite_is_zeroed_and_counted_as_the_policy_says():
    task = groups(free="disabled", silent="sanitize", told="warn")
    late = {"_target_": sometimes, "delay": {"range_s": [0.02, 0.02]}}
    task["observations"] |= {
        "late": {"terms": {"s": late}},
        "default": {"terms": task["observations"]["told"]["terms"]},
    }
    player = Player(cartpole_task(**task))
    steps = player.play(np.zeros((7, 32, 1)))
    bad = steps[3].after.envs.physics.qpos[:, 0] > 0
    assert 0 < bad.sum() < 32
    for t, step in enumerate(steps):
        now = bad & (t == 4)
        expected = np.where(now[:, None], 0.0, [3.0, 6.0])
        assert np.array_equal(step.out.obs["silent"][:, 2:], expected)
        assert np.array_equal(step.out.obs["told"], step.out.obs["silent"])
        assert np.array_equal(step.out.obs["default"], step.out.obs["silent"])
        assert step.out.log["not_finite/task.observations.default.terms.s"] == now.sum()
        assert np.array_equal(np.isfinite(step.out.obs["free"][:, 2:]).all(axis=1), ~now)
        assert step.out.log["not_finite/task.observations.told.terms.s"] == now.sum()
        assert (
            step.out.log["not_finite/task.observations.late.terms.s"] == now.sum()
        )  # when it is measured, not when it is seen
        assert np.array_equal(step.out.obs["late"], np.where((bad & (t == 5))[:, None], 0.0, [[1.0, 2.0]]))
    assert not any("silent" in name or "free" in name for name in steps[0].out.log)


def test_what_an_episode_ends_with_is_zeroed_and_counted_too():
    """The last observation goes to the learner alone: what follows it in the env is of a fresh episode."""
    task = groups(told="warn", free="disabled") | {"episode_length_s": 0.1}
    time_out = {"time_out": {"_target_": f"{MDP}.terminations.time_out"}}
    steps = Player(cartpole_task(**task, terminations=time_out)).play(np.zeros((5, 32, 1)))
    bad = steps[3].after.envs.physics.qpos[:, 0] > 0
    last = steps[4].out
    assert last.truncated.all() and 0 < bad.sum() < 32 and np.isfinite(last.obs["free"]).all()
    assert np.array_equal(~np.isfinite(last.terminal_obs["free"]).all(axis=1), bad)
    assert np.array_equal(last.terminal_obs["told"][:, 2:], np.where(bad[:, None], 0.0, [3.0, 6.0]))
    assert last.log["not_finite/task.observations.told.terms.s"] == bad.sum()


def test_what_the_scale_makes_infinite_is_not_finite():
    huge = {"_target_": lambda ctx: jnp.array([1e30, 1.0]), "scale": [1e30, 2.0]}
    player = Player(cartpole_task(observations={"actor": {"terms": {"huge": huge}}}))
    state, obs = player.reset(2)
    assert obs["actor"].tolist() == [[0.0, 2.0]] * 2
    assert player.step(state, np.zeros((2, 1)))[1].log["not_finite/task.observations.actor.terms.huge"] == 2


def test_what_is_not_finite_ends_the_program_where_the_policy_says_so():
    player = Player(cartpole_task(**groups(strict="error")))
    state, _ = player.reset(8)
    for _ in range(4):
        state, _ = player.step(state, np.zeros((8, 1)))
    with pytest.raises(Exception, match=r"task\.observations\.strict\.terms\.s: the observation is not finite"):
        player.step(state, np.zeros((8, 1)))
