"""When events fire, and what they leave in an env. `dof_solimp` holds counters here: nothing depends on it."""

import jax
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task

from ksim.envs.managers import EventManager
from ksim.envs.settings import EventSettings
from ksim.envs.terms import Term

E, T, EPISODE = 16, 150, 25


def count(ctx, key, *, slot: int):
    return {"dof_solimp": ctx.model_field("dof_solimp").at[0, slot].add(1.0)}


def counting(slot, **settings):
    return {"_target_": count, "slot": slot, **settings}


def draw(ctx, key):
    return {"dof_solimp": ctx.model_field("dof_solimp").at[1].set(jax.random.uniform(key, (5,)))}


@pytest.fixture(scope="module")
def play():
    """150 steps, episodes of 25; every event counts how often it has fired in each env."""
    player = Player(
        cartpole_task(
            episode_length_s=0.5,
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            events={
                "startup": counting(0, mode="startup"),
                "reset": counting(1, mode="reset"),
                "step": counting(2, mode="step"),
                "interval": counting(3, mode="interval", interval_range_s=[0.1, 0.2]),
                "global": counting(4, mode="interval", interval_range_s=[0.1, 0.2], is_global=True),
                "draw": {"_target_": draw, "mode": "reset"},
            },
        )
    )
    steps = player.play(np.zeros((T, E, 1)), random_age=True)
    return player.env.scene.model, steps


def counts(play, slot):
    """How often an event has fired: before the first step, and after each, (T + 1, E)."""
    model, steps = play
    values = [
        steps[0].before.envs.model_fields["dof_solimp"],
        *(step.after.envs.model_fields["dof_solimp"] for step in steps),
    ]
    return np.round(np.stack(values)[:, :, 0, slot] - model.dof_solimp[0, slot])


def ends(play):
    return np.stack([step.out.done for step in play[1]])


def test_startup_events_fire_once(play):
    np.testing.assert_allclose(counts(play, 0), 1, atol=1e-5)


def test_reset_events_fire_at_every_start_of_an_episode(play):
    started = 1 + np.cumsum(ends(play), axis=0)
    assert started[-1].min() >= 6
    np.testing.assert_allclose(counts(play, 1)[1:], started, atol=1e-5)


def test_step_events_fire_in_every_step(play):
    np.testing.assert_allclose(counts(play, 2), np.tile(np.arange(T + 1.0)[:, None], (1, E)), atol=1e-4)


def gaps(fired, restarts=None):
    """Steps from a start to the first firing, and between firings, of every env."""
    found = []
    for env in range(E):
        last = -1
        for t in range(T):
            if fired[t, env]:
                found.append(t - last)
                last = t
            if restarts is not None and restarts[t, env]:
                last = t
    return np.array(found)


def test_interval_events_fire_within_their_range(play):
    """0.1 to 0.2 s are 5 to 10 steps; timers are each env's own, and drawn anew at a reset."""
    fired = np.diff(counts(play, 3), axis=0) == 1
    assert set(gaps(fired, ends(play))) == {5, 6, 7, 8, 9, 10}
    assert len({tuple(np.flatnonzero(fired[:, env])) for env in range(E)}) == E


def test_global_interval_events_fire_in_all_envs_at_once(play):
    """Their timer goes on through resets."""
    fired = np.diff(counts(play, 4), axis=0) == 1
    assert (fired == fired[:, :1]).all()
    assert set(gaps(fired)) <= {5, 6, 7, 8, 9, 10} and len(set(gaps(fired))) > 2


@pytest.mark.parametrize("restarted", [0, 2])
def test_global_events_fire_when_they_would_whoever_is_reset(restarted):
    counted = counting(4, mode="interval", interval_range_s=[0.1, 0.4], is_global=True)
    player = Player(cartpole_task(events={"global": counted}))
    fired = []
    for is_disturbed in (False, True):
        state, obs = player.reset(E)
        times = []
        for t in range(60):
            if is_disturbed and t in (3, 20):
                mask_E = np.arange(E) == restarted
                state, obs = player.env.restart(state, obs, mask_E, jax.random.key(t) if t == 20 else None)
            after, out = player.step(state, np.zeros((E, 1)))
            change = (
                after.envs.model_fields["dof_solimp"][:, 0, 4]
                - np.asarray(state.envs.model_fields["dof_solimp"])[:, 0, 4]
            )
            times += [t] * bool(np.all(change > 0.5))
            assert len(set(change > 0.5)) == 1
            state, obs = after, out.obs
        fired.append(times)
    assert fired[0] == fired[1] and len(fired[0]) >= 3


def test_what_resets_draw_is_each_envs_own_until_the_next(play):
    drawn = np.stack([step.after.envs.model_fields["dof_solimp"][:, 1] for step in play[1]])
    assert np.array_equal((np.diff(drawn, axis=0) != 0).all(axis=-1), ends(play)[1:])
    assert np.unique(drawn[..., 0]).size == np.sum(ends(play)[1:]) + E


def test_an_interval_is_one_step_at_least():
    """0.001 s is less than a step."""
    settings = EventSettings(mode="interval", interval_range_s=(0.001, 0.002))
    term = Term("t", "task.events.t", count, {"slot": 0}, settings)
    assert EventManager({"t": term}, 0.02).draw_timers(jax.random.key(0))["t"] == 1


def test_time_outs_are_spread(play):
    """Random first ages: not all envs reach their limit in the same step."""
    first = np.argmax(ends(play), axis=0)
    assert np.unique(first).size > E / 2 and first.max() < EPISODE


def test_without_random_ages_all_episodes_are_whole():
    """As for an evaluation; and the first ages are uniform where they are random."""
    player = Player(
        cartpole_task(
            episode_length_s=2.0,
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            events={
                "joints": {"_target_": f"{MDP}.events.reset_joints", "mode": "reset", "position_range": [-0.2, 0.2]}
            },
        )
    )
    state, obs = player.reset(512)
    assert not state.envs.episode_step.any()
    assert np.unique(obs["actor"][:, 0]).size > 500 and np.abs(obs["actor"]).max() <= 0.2
    assert obs["actor"].std() == pytest.approx(0.4 / np.sqrt(12), rel=0.1)
    ages = player.reset(512, random_age=True)[0].envs.episode_step
    assert ages.min() >= 0 and ages.max() < 100
    assert ages.mean() == pytest.approx(49.5, abs=5) and np.unique(ages).size > 80


@pytest.mark.parametrize("events", [None, {}])
def test_the_default_event(events):
    """With no events given, a done env is put home at rest; with an empty mapping it stays where it is."""
    player = Player(
        cartpole_task(
            terminations={
                "far": {"_target_": f"{MDP}.terminations.joint_out_of_range", "joints": "slider", "limit": 0.05}
            },
            events=events,
        )
    )
    steps = player.play(np.ones((20, 2, 1)))
    ended = [step for step in steps if step.out.done[0]]
    assert ended
    for step in ended:
        physics = step.after.envs.physics
        if events is None:
            assert not physics.qpos[0].any() and not physics.qvel[0].any()
        else:
            assert physics.qpos[0, 0] > 0.05 and physics.qvel[0, 0] > 0
        assert step.after.envs.episode_step[0] == 0
    assert not any(step.out.truncated.any() for step in steps)  # no time limit
