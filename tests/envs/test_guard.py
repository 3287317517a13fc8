"""What is not finite: states, which the NaN guard catches, rewards and metrics."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task, same

from ksim.config.schema import SimCfg
from ksim.envs import guard
from ksim.envs.carry import PerEnv
from ksim.envs.tree import with_envs
from ksim.physics import initial_state, make_physics

E = 4


def poison(ctx, key):
    """Breaks the envs whose cart is right of 0.5 m."""
    return {"qvel": jnp.where(ctx.qpos[0] > 0.5, jnp.nan, ctx.qvel)}


def poison_mass(ctx, key):
    """Another mass of the pole in every step; NaN in the envs whose cart is right of 0.5 m."""
    mass = ctx.model_field("body_mass")
    scale = 1.0 + 0.1 * jax.random.uniform(key)
    return {"body_mass": jnp.where(ctx.qpos[0] > 0.5, jnp.nan, ctx.scene.model.body_mass[-1] * scale) * (mass > 0)}


def root(ctx):
    """NaN where the cart is left of the middle."""
    return jnp.sqrt(ctx.joint_pos[0])


def blow_up(ctx):
    return 1.0 / jnp.maximum(ctx.joint_pos[0], 0.0)


def task(poison=poison, **sim):
    effort = {"_target_": f"{MDP}.actions.joint_effort", "joints": "slider", "scale": 10.0}
    return cartpole_task(
        actions={"force": effort | {"delay": {"range_s": [0.01, 0.01]}}},
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
def players():
    """One env by engine; it shows the last action, too."""

    @functools.cache
    def of(engine):
        terms = {name: {"_target_": f"{MDP}.observations.{name}"} for name in ("joint_pos", "last_action")}
        return Player(replace(task(), observations={"actor": {"terms": terms}, "critic": {"terms": terms}}), engine)

    return of


@pytest.fixture(scope="module")
def player(players):
    return players("mujoco")


def placed(state, qpos, qvel=None):
    """A state with the carts (and poles) elsewhere."""
    qvel = np.zeros((E, 2)) if qvel is None else np.asarray(qvel)
    physics = replace(state.envs.physics, qpos=np.asarray(qpos, np.float32), qvel=qvel.astype(np.float32))
    return with_envs(state, physics=physics)


GOOD = [[0.1, 0.0], [0.2, 0.1], [0.3, -0.1], [0.4, 0.05]]


@pytest.fixture(scope="module")
def start(player):
    return player.reset(E)[0]


def finite(tree):
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
    assert np.abs(state.envs.physics.qpos[2]).max() <= 0.1 and state.envs.episode_step[2] == 0
    others = [0, 1, 3]
    for got, expected in (
        (state.envs.physics, good_state.envs.physics),
        (out.obs, good.obs),
        (out.reward, good.reward),
    ):
        assert same(got, expected, others)
    assert finite((state.envs.physics, out.obs, out.terminal_obs, out.reward, out.log))
    # The episode of the broken env is worth what it was before.
    assert out.episode["return"][2] == 0 and out.episode["length"][2] == 1


def test_the_first_diverged_envs_of_a_run_are_kept(player, start):
    """With all that their step started from, in their order, until the slots are full."""
    assert start.shared.diverged.count == 0
    state, _ = player.step(placed(start, GOOD), np.full((E, 1), -0.5))
    assert same(state.shared.diverged, start.shared.diverged)

    action = np.array([[0.1], [0.2], [0.3], [0.4]], np.float32)
    state, out = player.step(placed(state, [[0.1, 0], [0.7, 0.2], [0.8, 0], [0.1, 0]]), action)
    assert out.log["nan_guard"] == 2 and state.shared.diverged.count == 2
    given = state.shared.diverged.given
    assert set(given) == {"qpos", "qvel", "act", "qacc_warmstart", "ctrl"}
    np.testing.assert_array_equal(given["qpos"], np.float32([[0.7, 0.2], [0.8, 0], [0, 0], [0, 0]]))
    assert np.isnan(given["qvel"][:2]).all()  # as the event left it
    # 10 N an action unit, a substep late: both substeps' controls are there.
    np.testing.assert_allclose(given["ctrl"], [[[-5], [2]], [[-5], [3]], [[0], [0]], [[0], [0]]], rtol=1e-6)

    later, out = player.step(placed(state, [[0.9, 0.5], [0.1, 0], [1.0, 0], [1.1, 0]]), action)
    assert out.log["nan_guard"] == 3 and later.shared.diverged.count == 4
    expected = np.float32([[0.7, 0.2], [0.8, 0], [0.9, 0.5], [1.0, 0]])
    np.testing.assert_array_equal(later.shared.diverged.given["qpos"], expected)

    full, out = player.step(placed(later, [[1.2, 0], [1.3, 0], [0.1, 0], [0.1, 0]]), action)
    assert out.log["nan_guard"] == 2 and same(full.shared.diverged, later.shared.diverged)


@pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_breaks_its_own_env(players, engine, value):
    """C MuJoCo takes such a control for 0 and says nothing."""
    player = players(engine)
    start, _ = player.reset(E)
    good_state, good = player.step(placed(start, GOOD), np.full((E, 1), 0.3))
    action = np.float32([[0.3], [0.3], [value], [0.3]])
    state, out = player.step(placed(start, GOOD), action)

    assert out.terminated.tolist() == [False, False, True, False] and not out.truncated.any()
    assert out.log["nan_guard"] == 1 and out.ends["nan"].tolist() == [False, False, True, False]
    assert out.reward[2] == 0 and state.envs.episode_step[2] == 0
    others = [0, 1, 3]
    for got, expected in ((state.envs, good_state.envs), (out.obs, good.obs), (out.reward, good.reward)):
        assert same(got, expected, others)
    assert finite((state.envs.physics, state.envs.action, out.obs, out.terminal_obs, out.reward, out.log, out.episode))
    kept = state.shared.diverged
    assert kept.count == 1
    np.testing.assert_array_equal(kept.given["qpos"][0], np.float32(GOOD[2]))
    np.testing.assert_array_equal(
        kept.given["ctrl"][0], np.float32([[0.0], [np.clip(10 * value, -10, 10)]])
    )  # a substep late
    # Nothing of it is left in the delay line.
    later, out = player.step(state, np.full((E, 1), 0.3))
    assert out.log["nan_guard"] == 0 and not out.terminated.any() and finite((later.envs.physics, out.obs))


def test_an_event_that_breaks_the_model_breaks_one_episode(start):
    """Its NaN in the masses is put back, too: else that env would diverge in every step from then on."""
    player = Player(task(poison_mass))
    state, _ = player.step(placed(player.reset(E)[0], GOOD), np.zeros((E, 1)))
    qpos = np.array(GOOD)
    qpos[1, 0] = 0.6
    after, out = player.step(placed(state, qpos), np.zeros((E, 1)))
    assert out.terminated.tolist() == [False, True, False, False] and out.log["nan_guard"] == 1
    assert np.isnan(after.shared.diverged.given["body_mass"][0, 2:]).all()
    assert finite(after.envs.model_fields) and same(after.envs.model_fields, state.envs.model_fields, [1])
    others = [0, 2, 3]
    assert not np.array_equal(
        after.envs.model_fields["body_mass"][others], state.envs.model_fields["body_mass"][others]
    )
    for _ in range(3):
        after, out = player.step(after, np.zeros((E, 1)))
        assert out.log["nan_guard"] == 0 and not out.terminated.any()


ACTIVATED = """
<mujoco>
  <option timestep="0.01"><flag autoreset="disable"/></option>
  <worldbody><body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1"/></body></worldbody>
  <actuator><general joint="x" dyntype="integrator" gainprm="0"/></actuator>
</mujoco>
"""


def guarded(after, last, mass=1.0, last_mass=1.0):
    """What the guard makes of two envs after a step, of which it sees the physics and a mass."""

    def envs(physics, mass):
        return PerEnv(physics, {"body_mass": jnp.full((2, 2), mass)}, *[None] * 7)

    diverged_E = guard.find_diverged(after.qpos, after.qvel, after.act)
    return guard.put_back(envs(after, mass), envs(last, last_mass), diverged_E), diverged_E


@pytest.fixture(scope="module")
def activated():
    """An engine whose model has an activation, an integrator that moves nothing, and 2 envs at rest."""
    model = mujoco.MjModel.from_xml_string(ACTIVATED)
    return make_physics("mujoco", model, (), 1), initial_state(model, (), 2)


@pytest.mark.parametrize("field", ["qpos", "qvel", "act"])
@pytest.mark.parametrize(
    ("value", "is_bad"),
    [(1e9, False), (-9.9e9, False), (1.01e10, True), (-1e11, True), (np.inf, True), (np.nan, True)],
)
def test_the_limit_of_a_state(activated, field, value, is_bad):
    _, last = activated
    physics = replace(last, **{field: getattr(last, field).at[1, 0].set(value)})
    envs, bad_E = guarded(physics, last, 3.0, 1.0)
    assert bad_E.tolist() == [False, is_bad]
    assert same(envs.physics, last if is_bad else physics)
    assert envs.model_fields["body_mass"].tolist() == [[3.0, 3.0], [1.0, 1.0] if is_bad else [3.0, 3.0]]


@pytest.mark.parametrize(("act", "ctrl", "is_bad"), [(5.0, 1e9, False), (1e10, 5e9, True), (np.nan, 0.0, True)])
def test_activations_are_guarded(activated, act, ctrl, is_bad):
    """An integrator that grew too large, or began as NaN, while the joint that it does not drive is at rest."""
    engine, last = activated
    given = replace(last, act=last.act.at[1].set(act))
    after = engine.step(given, {}, jnp.zeros((2, 3, 1)).at[1].set(ctrl))
    envs, bad_E = guarded(after, last)
    assert bad_E.tolist() == [False, is_bad]
    if np.isfinite(act):
        np.testing.assert_allclose(after.act[1], act + 0.03 * ctrl, rtol=1e-6)
        assert np.abs(after.qvel).max() == 0
    assert same(envs.physics, last if is_bad else after)
    kept = guard.keep_first(guard.none_diverged(g := guard.given(given, {}, jnp.zeros((2, 3, 1)))), bad_E, g)
    assert kept.count == is_bad
    if is_bad:
        np.testing.assert_array_equal(kept.given["act"][0], [act])


def test_without_the_guard_a_broken_state_is_there_to_be_judged(start):
    state, out = Player(task(nan_guard=False)).step(placed(start, [[0.6, 0.0], *GOOD[1:]]), np.zeros((E, 1)))
    assert out.terminated.tolist() == [True, False, False, False] and out.log["nan_guard"] == 0
    assert out.log["not_finite/task.metrics.speed"] == 1  # it has seen the NaN
    assert finite(state.envs.physics.qpos[1:])


def test_rewards_that_are_not_finite_count_as_zero(player, start):
    """They are counted by term; the other terms and the other envs keep their rewards."""
    qpos = [[-0.2, 0.0], [0.25, 0.0], [-0.3, 0.0], [0.36, 0.0]]
    _, out = player.step(placed(start, qpos), np.zeros((E, 1)))
    counts = {name: int(out.log[f"not_finite/task.rewards.{name}"]) for name in ("root", "blow_up", "one")}
    assert counts == {"root": 2, "blow_up": 2, "one": 0}
    expected = 0.02 * np.array([3.0, 3.0 + 0.5 - 4.0, 3.0, 3.0 + 0.6 - 1 / 0.36])
    np.testing.assert_allclose(out.reward, expected, rtol=1e-4)
    assert finite(out.episode) and not out.done.any()


def lost(progress):
    """A weight that is right in the first two steps and lost after them."""
    return jnp.where(progress.num_steps < 2, 5.0, jnp.nan)


def test_a_reward_whose_weight_is_not_finite_counts_as_zero():
    """What is judged is what is added up: weight x value. Two finite factors may be too much, too."""
    one = {"_target_": lambda ctx: 1.0}
    player = Player(
        cartpole_task(
            rewards={
                "kept": one | {"weight": 1.0},
                "driven": one | {"weight": 1.0},
                "huge": {"_target_": lambda ctx: jnp.where(ctx.joint_pos[0] > 0.0, 1e30, 0.0), "weight": 1e30},
            },
            curriculum={"lost": {"_target_": lost, "sets": "rewards.driven.weight"}},
        )
    )
    state, _ = player.reset(E)
    state = placed(state, [[0.3, 0.0], [-0.3, 0.0], [-0.3, 0.0], [-0.3, 0.0]])
    for weight, broken in ((5.0, 0), (5.0, 0), (0.0, E), (0.0, E)):
        state, out = player.step(state, np.zeros((E, 1)))
        np.testing.assert_allclose(out.reward, 0.02 * (1.0 + weight), rtol=1e-6)
        counts = [int(out.log[f"not_finite/task.rewards.{name}"]) for name in ("kept", "driven", "huge")]
        assert counts == [0, broken, 1]
    assert finite(out.episode)


def test_metrics_that_are_not_finite_count_as_zero_and_are_told_apart_from_rewards():
    """In their step and env alone; the other steps of the episode count."""

    def clock(ctx):
        """The episode's step; in the third one of the envs right of the middle, it is not there."""
        return jnp.where((ctx.episode_step == 3) & (ctx.joint_pos[0] > 0.0), jnp.nan, 1.0 * ctx.episode_step)

    reduces = ("mean", "sum", "max", "last")
    player = Player(
        cartpole_task(
            rewards={"sum": {"_target_": clock, "weight": 0.5}},
            metrics={name: {"_target_": clock, "reduce": name} for name in reduces},
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            episode_length_s=0.08,
        )
    )
    state = placed(player.reset(E)[0], [[0.3, 0.0], [-0.3, 0.0], [0.3, 0.0], [-0.3, 0.0]])
    logs = []
    for _ in range(4):
        state, out = player.step(state, np.zeros((E, 1)))
        logs.append(out.log)
    for name in reduces:
        assert [int(log[f"not_finite/task.metrics.{name}"]) for log in logs] == [0, 0, 2, 0]
    assert [int(log["not_finite/task.rewards.sum"]) for log in logs] == [0, 0, 2, 0]
    assert out.done.all()
    expected = {"mean": [7 / 4, 10 / 4], "sum": [7.0, 10.0], "max": [4.0, 4.0], "last": [4.0, 4.0]}
    for name, values in expected.items():
        np.testing.assert_allclose(out.episode[f"metric/{name}"], np.tile(values, 2), rtol=1e-6)
        np.testing.assert_allclose(out.log[f"metric/{name}"], 2 * sum(values), rtol=1e-6)
