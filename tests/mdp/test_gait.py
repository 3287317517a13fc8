"""Terms of gaits: the clock, feet that rise with it, and what metrics make of a walk that is written by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import plain
from support.terms import commanded, context, simulation

from ksim.envs import mirror
from ksim.errors import ConfigError
from ksim.mdp import commands, drawings, metrics, observations, rewards
from ksim.mdp.gait import swing_share
from ksim.mdp.quantities import _lowest_point, lowest_points

DT, PERIOD = 0.02, 0.8
STEPS = 40  # of a period
MOVING, STANDING = commanded(0.5, 0.0, 0.0), commanded(0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def still(kbot_feet) -> mujoco.MjData:
    data = plain.make(kbot_feet.model, kbot_feet.home_qpos)
    return plain.forward(kbot_feet.model, data, kbot_feet.home_joint_pos[: kbot_feet.num_actuated])


def run_clock(scene, data, asked):
    """Values of the clock while `asked` says in which steps it is asked to move."""
    clock = commands.gait_clock(period_s=PERIOD, command="twist")

    def step(carry, is_asked):
        value, carry = clock(context(scene, data, memory=commanded(0.5 * is_asked, 0.0, 0.0)), carry)
        return carry, value

    start = clock.init(context(scene, data), jax.random.key(0))
    padded = jnp.zeros(300).at[: len(asked)].set(jnp.asarray(asked))  # of one length: compiled once
    return np.asarray(jax.lax.scan(step, start, padded)[1])[: len(asked)]


def test_the_clock_turns_while_it_is_asked_to_move(kbot_feet, still):
    phase = np.arange(1, 101) * DT / PERIOD
    clock, ctx = commands.gait_clock(), context(kbot_feet, still)
    starts = jax.vmap(lambda key: clock.init(ctx, key).phase)(jax.random.split(jax.random.key(0), 1000))
    assert set(starts.tolist()) == {0.0, 0.5} and abs(starts.mean() - 0.25) < 0.05  # either foot may be due first
    value = run_clock(kbot_feet, still, [True] * 100)
    expected = np.stack([np.cos(2 * np.pi * phase), np.sin(2 * np.pi * phase)], axis=1)
    np.testing.assert_allclose(value * np.sign(value[0, 0]), expected, atol=1e-4)


@pytest.mark.parametrize("asked_for", [1, 19, 20, 21, 33, 200])
def test_the_clock_finishes_a_step_and_goes_on_from_there(kbot_feet, still, asked_for):
    """It stops in the step that reaches the next half period, shows zeros, and starts again as from there."""
    half = STEPS // 2
    value = run_clock(kbot_feet, still, np.r_[np.ones(asked_for), np.zeros(60), np.ones(3)])
    stops_at = (asked_for // half + 1) * half  # steps from the start
    runs = np.any(value != 0, axis=1)
    assert runs[: stops_at - 1].all() and not runs[stops_at - 1 : asked_for + 60].any() and runs[-3:].all()
    angle = np.arctan2(value[:, 1], value[:, 0])
    turned = np.exp(1j * (angle[-3] - angle[0]))  # both one step after a half
    np.testing.assert_allclose(turned, (-1) ** (stops_at // half), atol=1e-3)


def test_a_clock_without_a_command_always_runs(kbot_feet, still):
    clock = commands.gait_clock(period_s=PERIOD)
    ctx = context(kbot_feet, still)
    carry = clock.init(ctx, jax.random.key(0))
    assert np.linalg.norm(clock(ctx, carry)[0]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ConfigError, match="period_s: must be positive, not 0"):
        commands.gait_clock(period_s=0.0)


def test_a_clock_that_runs_for_hours_is_as_exact_as_at_first(kbot_feet, still):
    """Its phase begins anew each period: float32 resolves no small part of a large number."""
    clock, ctx = commands.gait_clock(period_s=PERIOD), context(kbot_feet, still)
    _, phase = jax.lax.scan(lambda carry, _: 2 * (clock(ctx, carry)[1],), clock.init(ctx, jax.random.key(0)), None, 100)
    assert (phase.phase >= 0).all() and (phase.phase < 1).all()


def clocked(phase):
    angle = 2 * jnp.pi * phase
    state = commanded(0.0, 0.0, name="gait")["task.commands.gait"]
    value = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return {"task.commands.gait": dataclasses.replace(state, value=value)}


def _at(scene, data, phase):
    return context(scene, data, memory=clocked(phase))


@pytest.mark.parametrize(("stance", "offsets"), [(0.5, None), (0.6, None), (0.4, None), (0.55, (0.25, 0.75))])
def test_a_foot_is_on_the_ground_for_its_share(kbot_feet, still, stance, offsets):
    """Over a period; its arc is symmetric, as high as 1, and at the offset's time."""
    phase = np.arange(1000) / 1000
    share = np.asarray(
        jax.vmap(lambda p: swing_share(_at(kbot_feet, still, p), "gait", 2, stance=stance, offsets=offsets))(
            jnp.asarray(phase[::10])
        )
    )
    assert abs((share == 0).mean() - stance) < 0.02 and share.min() == 0
    for foot, offset in enumerate(offsets or (0.0, 0.5)):
        sine = np.sin(2 * np.pi * (phase[::10] + offset))
        level = np.sin(np.pi * (stance - 0.5))
        np.testing.assert_allclose(share[:, foot], np.maximum(sine - level, 0) / (1 - level), atol=1e-5)
    stopped = context(kbot_feet, still, memory=commanded(0.0, 0.0, name="gait"))
    assert not swing_share(stopped, "gait", 2, stance=stance, offsets=offsets).any()


def test_shares_that_are_none_are_refused(kbot_feet, still):
    ctx = context(kbot_feet, still, memory=clocked(0.1))
    with pytest.raises(ConfigError, match="offsets: has 3 elements for 2 feet"):
        swing_share(ctx, "gait", 2, stance=0.5, offsets=(0.0, 0.1, 0.2))
    with pytest.raises(ConfigError, match="stance: must be a share of the period between 0 and 1, not 1.5"):
        swing_share(ctx, "gait", 2, stance=1.5, offsets=None)


def test_the_lowest_point_is_that_of_the_surface(kbot_feet):
    """Of K-Bot's capsules, tilted anyhow: the lower end's centre less the radius."""
    for seed in range(3):
        data, model = simulation(kbot_feet, seed), kbot_feet.model
        found = np.asarray(lowest_points(context(kbot_feet, data), "feet"))
        for foot, names in enumerate(kbot_feet.contacts["feet"].sensors):
            ends = []
            for geom in (model.sensor(name).objid[0] for name in names):
                axis = data.geom_xmat[geom].reshape(3, 3)[:, 2] * model.geom_size[geom, 1]
                ends += [z - model.geom_size[geom, 0] for z in (data.geom_xpos[geom] + axis)[2:]]
                ends += [z - model.geom_size[geom, 0] for z in (data.geom_xpos[geom] - axis)[2:]]
            assert found[foot] == pytest.approx(min(ends), abs=1e-5)


SHAPES = {
    "sphere": "0.1",
    "box": "0.1 0.2 0.05",
    "capsule": "0.05 0.2",
    "cylinder": "0.1 0.15",
    "ellipsoid": ".1 .2 .05",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_lowest_point_of_each_shape(kbot_feet, shape):
    """Against the floor that MuJoCo finds it to touch: at that height it has just come into contact."""
    xml = f"""<mujoco><worldbody><geom type="plane" size="5 5 1"/>
      <body pos="0 0 0.5" euler="30 50 70"><freejoint/><geom type="{shape}" size="{SHAPES[shape]}"/></body>
      </worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)

    class Stub:
        class scene:  # noqa: N801
            pass

        geom_xpos, geom_xmat = jnp.asarray(data.geom_xpos), jnp.asarray(data.geom_xmat).reshape(-1, 3, 3)

        @staticmethod
        def height_above_ground(point):
            return point[2]

    Stub.scene.model = model
    low = float(_lowest_point(Stub, 1))
    for height, touches in ((0.5 - low + 1e-4, False), (0.5 - low - 1e-4, True)):
        data.qpos[2] = height
        mujoco.mj_forward(model, data)
        assert (data.ncon > 0) == touches


def standing_feet(scene, data, *, up=(0.0, 0.0), on=(True, True), qvel=None):
    """K-Bot's home pose with its feet moved up, and what its contact sensor says of each."""
    moved = plain.make(scene.model, scene.home_qpos, qvel)
    moved = plain.forward(scene.model, moved, scene.home_joint_pos[: scene.num_actuated])
    xpos, sensordata = moved.geom_xpos.copy(), np.zeros_like(moved.sensordata)
    for foot, names in enumerate(scene.contacts["feet"].sensors):
        for name in names:
            xpos[scene.model.sensor(name).objid[0], 2] += up[foot]
            sensordata[scene.sensor_slice(name).start] = on[foot]
    return {"data": moved, "fields": {"geom_xpos": xpos, "sensordata": sensordata}}


def test_rewards_of_feet_that_swing(kbot_feet, still):
    """A quarter of a period on, the left foot is due at the top of its swing and the right one on the ground."""
    given = {"sensor": "feet", "clock": "gait"}
    stopped = commanded(0.0, 0.0, name="gait")
    for up, expected in (((0.08, 0.0), 1.0), ((0.05, 0.01), 0.5), ((0.0, 0.0), 0.0), ((0.3, 0.3), -1.0)):
        frame = standing_feet(kbot_feet, still, up=up, on=(False, True))
        swing = {"height": 0.08, "stance": 0.55}
        now = rewards.feet_swing(context(kbot_feet, **frame, memory=clocked(0.25)), **given, **swing)
        image = rewards.feet_swing(context(kbot_feet, **frame, memory=clocked(0.75)), **given, **swing)
        rest = rewards.feet_swing(context(kbot_feet, **frame, memory=stopped), **given, **swing)
        np.testing.assert_allclose(now, expected, atol=1e-3)
        np.testing.assert_allclose(image, max(1 - (up[0] + abs(0.08 - up[1])) / 0.08, -1), atol=1e-3)
        np.testing.assert_allclose(rest, max(1 - sum(up) / 0.08, -1), atol=1e-3)
        for memory, share in ((clocked(0.25), 1.0), (clocked(0.75), 0.0), (stopped, 0.5)):
            assert rewards.feet_on_time(context(kbot_feet, **frame, memory=memory), **given, stance=0.55) == share


def walk(scene, metric, frames, **memory):
    """A metric after each frame of a walk."""
    data = frames[0]["data"]
    qvel = jnp.asarray(np.stack([frame["data"].qvel for frame in frames]), jnp.float32)
    fields = {k: jnp.asarray(np.stack([frame["fields"][k] for frame in frames])) for k in frames[0]["fields"]}

    def step(value, frame):
        ctx = context(scene, data, fields=frame[1], **memory)
        physics = dataclasses.replace(ctx.env.physics, qvel=frame[0])
        ctx.env = dataclasses.replace(ctx.env, physics=physics)
        number, value = metric(ctx, value)
        return value, number

    start = metric.init(context(scene, **frames[0], **memory))
    return np.asarray(jax.lax.scan(step, start, (qvel, fields))[1])


def test_swings_are_as_high_as_their_peaks(kbot_feet, still):
    """The left foot swings to 6 cm, the right one to 10 cm, and the left one drags for a step at 1 cm."""
    arc = np.sin(np.linspace(0.1, np.pi - 0.1, 9))
    frames = [standing_feet(kbot_feet, still)]
    for foot, peak in ((0, 0.06), (1, 0.10), (0, 0.01)):
        up = np.zeros((len(arc), 2))
        up[:, foot] = peak * arc
        on = up == 0
        frames += [standing_feet(kbot_feet, still, up=u, on=o) for u, o in zip(up, on, strict=True)]
        frames += [standing_feet(kbot_feet, still)]
    rest = np.asarray(lowest_points(context(kbot_feet, still), "feet"))
    values = walk(kbot_feet, metrics.swing_height(sensor="feet"), frames)
    peaks = [0.06 + rest[0], 0.10 + rest[1], 0.01 + rest[0]]
    assert values[9] == 0  # in the air it is no swing yet
    np.testing.assert_allclose([values[10], values[20], values[30]], [np.mean(peaks[:n]) for n in (1, 2, 3)], atol=1e-5)


def test_errors_of_whole_cycles(kbot_feet, still):
    """A walk that sways by 0.3 m/s about 0.45 of 0.5 m/s is 0.05 m/s wrong; the last cycle stands still."""
    t = np.arange(1, 3 * STEPS + 1)
    speed = np.where(t <= 2 * STEPS, 0.45 + 0.3 * np.sin(2 * np.pi * t / STEPS), 0.0)
    frames = []
    for v in speed:
        qvel = np.zeros(kbot_feet.model.nv)
        qvel[[0, 5]] = v, 0.1
        frames.append(standing_feet(kbot_feet, still, qvel=qvel))
    given = {"command": "twist", "cycle_s": PERIOD}
    values = walk(kbot_feet, metrics.cycle_lin_vel_error(**given), frames, memory=MOVING)
    assert values[STEPS - 2] == 0
    np.testing.assert_allclose(
        [values[STEPS - 1], values[2 * STEPS], values[-1]], [0.05, 0.05, (0.1 + 0.5) / 3], atol=1e-4
    )
    values = walk(kbot_feet, metrics.cycle_yaw_rate_error(**given), frames, memory=MOVING)
    np.testing.assert_allclose(values[-1], 0.1, atol=1e-4)


def test_flight_and_slip(kbot_feet, still):
    qvel = np.zeros(kbot_feet.model.nv)
    qvel[:2] = 0.3, 0.4  # the whole robot glides
    for on, flies, slips in (((True, True), 0, 0.5), ((False, True), 0, 0.5), ((False, False), 1, 0.0)):
        ctx = context(kbot_feet, **standing_feet(kbot_feet, still, on=on, qvel=qvel))
        assert metrics.flight(ctx, sensor="feet") == flies
        np.testing.assert_allclose(metrics.stance_slip(ctx, sensor="feet"), slips, atol=1e-4)


def test_the_image_of_a_walk_has_the_image_of_its_feet(kbot_feet, still):
    """What is due of the left foot now is due of the right one with the mirrored clock; so are the clearances."""
    clock = mirror.of_vector("phase", 2)
    feet = mirror.of_contacts(kbot_feet, "feet")
    for phase in (0.1, 0.3, 0.8):
        value = np.array([np.cos(2 * np.pi * phase), np.sin(2 * np.pi * phase)])
        now, image = (
            swing_share(
                context(kbot_feet, still, memory=commanded(*v, name="gait")), "gait", 2, stance=0.6, offsets=None
            )
            for v in (value, clock(value))
        )
        np.testing.assert_allclose(feet(now), image, atol=1e-5)
    ctx = context(kbot_feet, **standing_feet(kbot_feet, still, up=(0.03, 0.07)))
    other = context(kbot_feet, **standing_feet(kbot_feet, still, up=(0.07, 0.03)))
    seen, image = (observations.clearance(c, sensor="feet") for c in (ctx, other))
    np.testing.assert_allclose(feet(seen), image, atol=1e-4)


def test_how_long_a_command_still_holds(kbot_feet, still):
    ctx = context(kbot_feet, still, memory=commanded(0.0))
    np.testing.assert_allclose(observations.command_time_left(ctx, name="twist"), [DT])


def test_a_running_clock_is_drawn(kbot_feet, still):
    class Term:
        name = "gait"

    (ball,) = drawings.gait_clock(context(kbot_feet, still, memory=clocked(0.25)), Term)
    np.testing.assert_allclose(ball.position - still.qpos[:3], [0, 0, 0.46], atol=1e-5)
    assert not list(drawings.gait_clock(context(kbot_feet, still, memory=commanded(0.0, 0.0, name="gait")), Term))
