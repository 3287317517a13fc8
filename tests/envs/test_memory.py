"""Terms with memory: what they remember goes on from step to step, and starts anew with their env's episode."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task, host, own, same

from ksim.envs import make_env
from ksim.envs.tree import with_envs
from ksim.errors import ConfigError
from ksim.store import tree_file

E, T, EPISODE = 3, 12, 5


class Travelled(eqx.Module):
    """How far the cart is from where it was one call ago; at first, from where the episode started."""

    factor: float = 1.0

    def init(self, ctx):
        return {"last": ctx.xpos[ctx.scene.find("body", "cart")[0], 0], "calls": 0}

    def __call__(self, ctx, memory):
        now = ctx.xpos[ctx.scene.find("body", "cart")[0], 0]
        return self.factor * (now - memory["last"]), {"last": now, "calls": memory["calls"] + 1}


class TooOften(eqx.Module):
    """Ends the third step of an episode."""

    def init(self, ctx):
        return jnp.zeros((), jnp.int32)

    def __call__(self, ctx, count):
        return count >= 2, count + 1


class Wandering(eqx.Module):
    """A step event that moves the cart by one millimetre more each time."""

    def init(self, ctx):
        return 0.0

    def __call__(self, ctx, key, fires, distance):
        return {"qpos": ctx.qpos.at[0].add(distance)}, distance + 0.001


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def steps(request):
    terms = {"travelled": {"_target_": Travelled}}
    player = Player(
        cartpole_task(
            observations={"actor": {"terms": terms}},
            rewards={"travelled": {"_target_": Travelled, "weight": 50.0, "factor": 2.0}},
            metrics={"travelled": {"_target_": Travelled, "reduce": "sum"}},
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            events={
                "joints": {
                    "_target_": f"{MDP}.events.reset_joints",
                    "mode": "reset",
                    "joints": "slider",
                    "position_range": [-0.5, 0.5],
                },
                "wander": {"_target_": Wandering, "mode": "step"},
            },
            episode_length_s=EPISODE * 0.02,
        ),
        request.param,
    )
    return player.play(np.random.default_rng(0).uniform(-1, 1, (T, E, 1)), random_age=True)


def cart(state):
    return state.envs.physics.qpos[:, 0]


def moved_by_event(steps):
    """What the event adds in each step and env: nothing in an episode's first step, then a millimetre more each."""
    count, rows = np.zeros(E), []
    for step in steps:
        rows.append(0.001 * count)
        count = np.where(step.out.done, 0, count + 1)
    return rows


def test_rewards_remember_from_step_to_step(steps):
    """From the reset state on: an episode's first reward is the way from there."""
    for step in steps:
        on = ~step.out.done
        expected = 2.0 * (cart(step.after) - cart(step.before))
        np.testing.assert_allclose(step.out.reward[on], expected[on], rtol=1e-3, atol=2e-6)
        assert on.any()


def test_metrics_remember(steps):
    """The ways of an episode add up to the distance from its start."""
    start = cart(steps[0].before)
    for step in steps:
        on = ~step.out.done
        np.testing.assert_allclose(step.out.episode["metric/travelled"][on], (cart(step.after) - start)[on], atol=1e-5)
        start = np.where(step.out.done, cart(step.after), start)


def test_events_remember(steps):
    """Seen in the position before the physics of the step: the velocity does not explain it."""
    for step, moved in zip(steps, moved_by_event(steps), strict=True):
        on = ~step.out.done
        velocity = (step.before.envs.physics.qvel[:, 0] + step.after.envs.physics.qvel[:, 0]) / 2
        explained = cart(step.before) + 0.02 * velocity + moved
        np.testing.assert_allclose(cart(step.after)[on], explained[on], atol=2e-3)
    assert max(np.max(m) for m in moved_by_event(steps)) == pytest.approx(0.004)


def test_an_observation_is_remembered_once(steps):
    """The terminal observation is computed besides and leaves nothing behind: both show the same way of the step."""
    for step in steps:
        on = ~step.out.done
        assert np.array_equal(step.out.obs["actor"][on], step.out.terminal_obs["actor"][on])
        way = cart(step.after) - cart(step.before)
        np.testing.assert_allclose(step.out.terminal_obs["actor"][on, 0], way[on], atol=2e-6)
        assert not step.out.obs["actor"][~on].any()  # of a fresh episode: no way yet


def test_memory_is_the_envs_own(steps):
    """Calls since the reset: one in the observation of the reset itself, and one in every step."""
    calls = steps[0].before.envs.memory["task.observations.actor.terms.travelled"]["calls"].copy()
    assert (calls == 1).all()
    for step in steps:
        calls = np.where(step.out.done, 1, calls + 1)
        assert np.array_equal(step.after.envs.memory["task.observations.actor.terms.travelled"]["calls"], calls)
        assert np.array_equal(step.after.envs.memory["task.rewards.travelled"]["calls"], calls - 1)


@pytest.fixture(scope="module")
def everything():
    """Every kind of memory at once, in episodes of 5 steps."""
    clock = {"_target_": lambda ctx: ctx.episode_step * 1.0, "history": 3}
    clock |= {"delay": {"range_s": [0.0, 0.1], "hold_probability": 0.5}}
    clock |= {"bias": {"type": "gaussian", "std": 1.0}}
    delay = {"range_s": [0.0, 0.05], "hold_probability": 0.5}
    force = {"_target_": f"{MDP}.actions.joint_effort", "joints": "slider", "delay": delay, "low_pass_hz": 5.0}
    return Player(
        cartpole_task(
            actions={"force": force},
            observations={
                "actor": {"terms": {"clock": clock, "way": {"_target_": Travelled}}, "enable_corruption": True}
            },
            rewards={"way": {"_target_": Travelled, "weight": 1.0}},
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            commands={
                "goal": {
                    "_target_": f"{MDP}.commands.uniform",
                    "low": [0.0],
                    "high": [1.0],
                    "resampling_time_range_s": [0.02, 0.1],
                }
            },
            events={
                "mass": {"_target_": f"{MDP}.randomize.mass", "mode": "reset", "bodies": "pole", "range": [0.5, 2.0]},
                "force": {
                    "_target_": f"{MDP}.events.external_force",
                    "mode": "interval",
                    "interval_range_s": [0.02, 0.06],
                    "bodies": "cart",
                    "force_range": [-1.0, 1.0],
                    "duration_range_s": [0.02, 0.06],
                },
            },
            curriculum={
                "c": {
                    "_target_": f"{MDP}.curriculum.linear",
                    "sets": "rewards.way.weight",
                    "start": 0.0,
                    "end": 1.0,
                    "num_steps": 10,
                }
            },
            episode_length_s=EPISODE * 0.02,
        )
    )


def test_a_reset_advances_nothing_in_other_envs(everything):
    """Buffers, timers, commands, forces, constants of the model, random streams: every bit, if env 0 ends or not."""
    steps = everything.play(np.random.default_rng(0).uniform(-1, 1, (4, E, 1)))
    last = steps[-1]
    age = np.array(last.before.envs.episode_step)
    age[0] = EPISODE
    state, out = everything.step(with_envs(last.before, episode_step=age), last.action)
    assert out.done[0] and not out.done[1:].any() and not last.out.done.any()
    others = np.arange(1, E)
    assert same(own(state), own(last.after), others)
    assert same(out.obs, last.out.obs, others) and same(out.reward, last.out.reward, others)
    assert not same(state.envs.memory, last.after.envs.memory, [0])
    paths = {path.split(".")[1] for path in state.envs.memory}
    assert paths == {"actions", "commands", "events", "observations", "rewards"}


def test_all_that_is_remembered_can_be_saved(everything):
    """A state that is stored and read goes on as if it had not been: what a resumed training relies on."""
    steps = everything.play(np.random.default_rng(0).uniform(-1, 1, (3, E, 1)))
    state = steps[1].after
    again = tree_file.from_bytes(tree_file.to_bytes(state), jax.eval_shape(lambda: state))
    assert same(host(again), state)
    after, out = everything.step(again, steps[2].action)
    assert same(after, steps[2].after) and same(out.obs, steps[2].out.obs)


def test_a_loop_can_carry_everything(everything):
    """Shapes and types stay as they are, none of them weak: a weak one would compile a training twice."""
    env = everything.env
    state, _ = jax.eval_shape(lambda key: env.reset(key, E), jax.random.key(0))
    after, _ = jax.eval_shape(env.step, state, state.envs.action)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (one.shape, one.dtype, one.weak_type) == (two.shape, two.dtype, two.weak_type)
        assert not one.weak_type


def test_terminations_remember():
    player = Player(cartpole_task(terminations={"often": {"_target_": TooOften}}))
    ended = [step.out.terminated.tolist() for step in player.play(np.zeros((7, 2, 1)))]
    assert [row[0] for row in ended] == [False, False, True, False, False, True, False]


def test_nothing_is_carried_where_nothing_is_remembered():
    player = Player(cartpole_task(rewards={"alive": {"_target_": f"{MDP}.rewards.alive", "weight": 1.0}}))
    state, _ = player.reset(2)
    assert state.envs.memory == {} and state.shared.curriculum == {}


class Grows(eqx.Module):
    def init(self, ctx):
        return jnp.zeros(2)

    def __call__(self, ctx, memory):
        return memory.sum(), jnp.zeros(3)


def test_a_memory_keeps_its_shape():
    with pytest.raises(ConfigError, match=r"task\.rewards\.grows: its memory must keep the shape .*\[2\].*\[3\]"):
        make_env(cartpole_task(rewards={"grows": {"_target_": Grows, "weight": 1.0}}), "mujoco")


class Forgets(eqx.Module):
    def init(self, ctx):
        return jnp.zeros(2)

    def __call__(self, ctx, memory):
        return memory.sum()


def test_a_term_with_memory_returns_it():
    with pytest.raises(ConfigError, match=r"task\.rewards\.forgets: has an 'init', .* must return \(value, memory\)"):
        make_env(cartpole_task(rewards={"forgets": {"_target_": Forgets, "weight": 1.0}}), "mujoco")


@pytest.mark.parametrize("mode", ["reset", "startup"])
def test_an_event_with_memory_needs_steps(mode):
    with pytest.raises(ConfigError, match=rf"task\.events\.wander\.mode: .*'interval' or 'step'.* not '{mode}'"):
        make_env(cartpole_task(events={"wander": {"_target_": Wandering, "mode": mode}}), "mujoco")
