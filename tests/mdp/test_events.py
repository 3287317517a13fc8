"""Event terms: what they write, and how it is distributed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation
from support.terms import context, simulation

from ksim.envs.context import Context
from ksim.errors import ConfigError
from ksim.mdp import events

KEYS = jax.random.split(jax.random.key(0), 100_000)


def draws(function, ctx, **params):
    """What an event writes for many keys, each (100,000, ...)."""
    return {
        name: np.asarray(x) for name, x in jax.jit(jax.vmap(lambda key: function(ctx, key, **params)))(KEYS).items()
    }


def uniform(values, low, high):
    """Whether values look drawn uniformly from a range."""
    values = np.ravel(values)
    assert values.min() >= low - 1e-5 and values.max() <= high + 1e-5
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def push(ctx, key, fires=True, **params):
    """What a first push writes, and what is remembered of it."""
    event = events.push(**params)
    return event(ctx, key, jnp.asarray(fires), event.init(ctx))


@pytest.mark.parametrize("speed", [0.5, (0.2, 0.8)])
def test_a_push_changes_the_velocity_by_its_length_in_any_direction(kbot, speed):
    ctx = context(kbot, data := simulation(kbot))
    writes = draws(lambda *args, **params: push(*args, **params)[0], ctx, speed=speed)
    assert set(writes) == {"qvel"}
    change = writes["qvel"] - data.qvel
    np.testing.assert_allclose(change[:, 2:], 0, atol=1e-6)
    length, angle = np.linalg.norm(change[:, :2], axis=1), np.arctan2(change[:, 1], change[:, 0])
    assert uniform(angle, -np.pi, np.pi)
    if speed == 0.5:
        np.testing.assert_allclose(length, 0.5, rtol=1e-5)
    else:
        assert uniform(length, 0.2, 0.8)
        assert abs(stats.spearmanr(length, angle).statistic) < 0.06


def test_a_push_is_remembered_until_the_next(kbot):
    """For the picture; between two pushes the velocity is left alone."""
    ctx = context(kbot, data := simulation(kbot))
    event, seen = events.push(speed=0.5), []
    memory = event.init(ctx)
    assert not memory.change.any()
    for key, fires in zip(KEYS[:5], [False, True, False, True, False], strict=True):
        writes, memory = event(ctx, key, jnp.asarray(fires), memory)
        change = np.asarray(writes["qvel"])[:2] - data.qvel[:2]
        assert fires == bool(np.abs(change).max() > 1e-3)
        if fires:
            np.testing.assert_allclose(memory.change, change, atol=1e-6)
        seen.append((int(memory.steps_since), tuple(np.asarray(memory.change).tolist())))
    steps, changes = zip(*seen, strict=True)
    assert steps[1:] == (0, 1, 0, 1)
    assert changes[1] == changes[2] != changes[3] == changes[4]


def test_a_push_needs_a_floating_base(cartpole):
    with pytest.raises(ConfigError, match="'cartpole' has no floating base"):
        push(context(cartpole, simulation(cartpole)), KEYS[0], speed=0.5)


def test_reset_scene_to_default_is_home_at_rest(kbot):
    writes = events.reset_scene_to_default(context(kbot, simulation(kbot)), KEYS[0])
    np.testing.assert_allclose(writes["qpos"], kbot.home_qpos, atol=1e-6)
    assert not np.any(writes["qvel"]) and writes["qvel"].shape == (kbot.model.nv,)


def test_reset_scene_to_default_relaxes_muscles(kbot):
    """Activations of actuators that have some, as K-Bot's do not."""
    ctx = context(kbot, simulation(kbot))
    physics = replace(ctx.env.physics, act=jnp.array([0.5, 1.0]))
    ctx = Context(kbot, replace(ctx.env, physics=physics), ctx.shared, step_dt=0.02, max_episode_steps=100)
    assert events.reset_scene_to_default(ctx, KEYS[0])["act"].tolist() == [0.0, 0.0]


def test_reset_root_draws_pose_and_velocity(kbot):
    """Height, roll, pitch, yaw and both velocities, from where the base is; the joints stay."""
    data = simulation(kbot)
    ranges = {
        "height_range": (0.1, 0.2),
        "tilt_range": (-0.3, 0.3),
        "yaw_range": (-1.0, 2.0),
        "lin_vel_range": (-0.5, 0.5),
        "ang_vel_range": (0.0, 1.0),
    }
    writes = draws(events.reset_root, context(kbot, data), **ranges)
    qpos, qvel = writes["qpos"], writes["qvel"]
    assert uniform(qpos[:, 2] - data.qpos[2], 0.1, 0.2)
    np.testing.assert_allclose(qpos[:, :2], np.tile(data.qpos[:2], (len(KEYS), 1)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(qpos[:, 3:7], axis=1), 1, atol=1e-5)
    before, after = (Rotation.from_quat(q, scalar_first=True) for q in (data.qpos[3:7], qpos[:, 3:7]))
    roll, pitch, yaw = (after * before.inv()).as_euler("xyz").T
    assert uniform(roll, -0.3, 0.3) and uniform(pitch, -0.3, 0.3) and uniform(yaw, -1.0, 2.0)
    for axis in range(3):
        assert uniform(qvel[:, axis], -0.5, 0.5) and uniform(qvel[:, 3 + axis], 0.0, 1.0)
    np.testing.assert_allclose(qpos[:, 7:], np.tile(data.qpos[7:], (len(KEYS), 1)), atol=1e-6)
    np.testing.assert_allclose(qvel[:, 6:], np.tile(data.qvel[6:], (len(KEYS), 1)), atol=1e-6)


def test_reset_root_leaves_alone_what_has_no_range(kbot):
    """But for the velocity, which is new: none."""
    data = simulation(kbot)
    writes = events.reset_root(context(kbot, data), KEYS[0])
    np.testing.assert_allclose(writes["qpos"], data.qpos, atol=1e-6)
    assert not writes["qvel"][:6].any() and (data.qvel[:6] != 0).all()


def test_reset_joints_draws_within_the_limits(kbot):
    """Offsets from where the joints are, clipped to their ranges; only of the named joints."""
    data = simulation(kbot)
    params = {"joints": ".*knee.*", "position_range": (-0.4, 0.2), "velocity_range": (-1.0, 0.0)}
    data.joint("dof_left_knee_04").qpos = 0.1  # its range starts at 0
    writes = draws(events.reset_joints, context(kbot, data), **params)
    left, right = (kbot.model.joint(f"dof_{side}_knee_04") for side in ("left", "right"))
    drawn = writes["qpos"][:, left.qposadr[0]]
    assert drawn.min() == 0 and np.mean(drawn == 0) == pytest.approx(0.5, abs=0.05)
    inner = drawn[drawn > 0]
    assert stats.kstest(inner, stats.uniform(0, 0.3).cdf).pvalue > 1e-3
    assert uniform(writes["qvel"][:, right.dofadr[0]], -1.0, 0.0)
    others = np.setdiff1d(np.arange(kbot.model.nq), [left.qposadr[0], right.qposadr[0]])
    np.testing.assert_allclose(writes["qpos"][:, others], np.tile(data.qpos[others], (len(KEYS), 1)), atol=1e-6)


def test_reset_root_moves_over_the_floor(kbot):
    data = simulation(kbot)
    qpos = draws(events.reset_root, context(kbot, data), xy_range=(-2.0, 1.0))["qpos"]
    for axis in (0, 1):
        assert uniform(qpos[:, axis] - data.qpos[axis], -2.0, 1.0)
    assert abs(np.corrcoef(qpos[:, :2].T)[0, 1]) < 0.02


FORCE = {"bodies": "cart|pole", "duration_range_s": (0.05, 0.09)}  # of steps of 0.02 s: 2.5 to 4.5


def pushes(scene, **params):
    """What is applied in ten steps after a push, (keys, 10, bodies of the model, 6)."""
    event = events.external_force(**(FORCE | params))
    data = simulation(scene)

    def play(key):
        memory, applied = event.init(context(scene, data)), [jnp.zeros((scene.model.nbody, 6))]
        for t in range(10):
            ctx = context(scene, data, model_fields={"xfrc_applied": applied[-1]})
            writes, memory = event(ctx, key, jnp.asarray(t == 2), memory)
            applied.append(writes["xfrc_applied"])
        return jnp.stack(applied[1:])

    return np.asarray(jax.jit(jax.vmap(play))(KEYS))


def test_a_force_lasts_for_its_duration(cartpole):
    """The same wrench from the firing on, for 3 or 4 steps; of a body that is not named, nothing."""
    applied = pushes(cartpole, force_range=(-5.0, 10.0), torque_range=(1.0, 2.0))
    named = [cartpole.model.body(name).id for name in ("cart", "pole")]
    assert not np.delete(applied, named, axis=2).any() and not applied[:, :2].any()
    on = applied[:, :, named].any(axis=(2, 3))
    steps = on.sum(axis=1)
    assert (on[:, 2:5].all(axis=1)).all() or set(steps) == {2, 3, 4}
    assert np.mean(steps == 3) == pytest.approx(0.5, abs=0.02) and np.mean(steps == 4) == pytest.approx(0.5, abs=0.02)
    held = applied[:, 2:5, named]
    assert (held == held[:, :1]).all()
    for body in (0, 1):
        for axis in range(3):
            assert uniform(held[:, 0, body, axis], -5.0, 10.0) and uniform(held[:, 0, body, 3 + axis], 1.0, 2.0)
    wrenches = held[:, 0].reshape(len(held), 12)  # of two bodies, each for itself
    assert np.abs(np.corrcoef(wrenches.T) - np.eye(12)).max() < 0.02


def test_forces_of_two_events_on_a_body_add_up(cartpole):
    """Each takes away only what it applied itself, and all of it."""
    both = [events.external_force("cart", (0.06, 0.06), (f, f)) for f in (3.0, 10.0)]
    fires = [[0, 3], [2]]
    ctx, seen = context(cartpole, simulation(cartpole)), []
    memories = [event.init(ctx) for event in both]
    fields = {}
    for t in range(8):
        for i, event in enumerate(both):
            ctx = context(cartpole, simulation(cartpole), model_fields=fields)
            writes, memories[i] = event(ctx, KEYS[t], jnp.asarray(t in fires[i]), memories[i])
            fields = fields | writes
        seen.append(float(fields["xfrc_applied"][cartpole.model.body("cart").id, 0]))
    assert seen == [3, 3, 13, 13, 13, 3, 0, 0]


def test_an_impulse_is_the_same_whatever_its_duration(cartpole):
    applied = pushes(cartpole, force_range=(2.0, 6.0), impulse=True)
    impulse = 0.02 * applied[:, :, cartpole.model.body("cart").id, :3].sum(axis=1)
    for axis in range(3):
        assert uniform(impulse[:, axis], 2.0, 6.0)
    lasted = applied[:, :, cartpole.model.body("cart").id, 0].astype(bool).sum(axis=1)
    assert abs(stats.spearmanr(impulse[:, 0], lasted).statistic) < 0.03
