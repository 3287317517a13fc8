"""Quantities with a frame, in a world that is turned: what a term says of a robot does not depend on where north is."""

import inspect

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support import plain
from support.terms import commanded, context

from ksim.envs.contacts import ContactTimes
from ksim.mdp import commands, events, metrics, observations, randomize, rewards, terminations

KEY = jax.random.key(3)
YAW = 2.1
TURN = Rotation.from_euler("z", YAW)
SHIFT = np.array([1.5, -0.8, 0.0])
SENSOR, COMMAND = {"sensor": "feet"}, {"command": "twist"}
GAIT = SENSOR | {"clock": "gait"}
FEET = ".*FootBushing.*"
PARAMS = {
    observations.command: {"name": "twist"},
    observations.command_time_left: {"name": "twist"},
    observations.clearance: SENSOR,
    observations.sensor: {"name": "imu_gyro"},
    observations.contacts: SENSOR,
    observations.contact_force: SENSOR,
    observations.air_time: SENSOR,
    observations.heights: {"bodies": FEET},
    observations.phase: {"period_s": 0.8},
    rewards.track_lin_vel: COMMAND,
    rewards.track_ang_vel: COMMAND,
    rewards.base_height: {"target": 1.0},
    rewards.capture_point: {"feet": FEET, "std": 0.5},
    rewards.bodies_still: {"bodies": FEET},
    rewards.stand_still: COMMAND,
    rewards.joint_near: {"joints": ".*knee.*"},
    rewards.pole_upright: {"joint": ".*knee.*"},
    rewards.feet_air_time: SENSOR,
    rewards.feet_slip: SENSOR,
    rewards.feet_clearance: SENSOR | {"height": 0.1},
    rewards.contact_force: SENSOR | {"limit": 1.0},
    rewards.feet_swing: GAIT | {"height": 0.1},
    rewards.feet_on_time: GAIT,
    terminations.low_height: {"limit": 0.9},
    terminations.illegal_contact: SENSOR,
    terminations.joint_out_of_range: {"joints": ".*knee.*", "limit": 0.2},
    metrics.lin_vel_error: COMMAND,
    metrics.yaw_rate_error: COMMAND,
    metrics.contact_share: SENSOR,
    metrics.flight: SENSOR,
    metrics.stance_slip: SENSOR,
    metrics.swing_height: SENSOR,
    metrics.cycle_lin_vel_error: COMMAND | {"cycle_s": 0.02},
    metrics.cycle_yaw_rate_error: COMMAND | {"cycle_s": 0.02},
}


def terms_of(module):
    """The terms that a module defines."""
    found = [x for name, x in vars(module).items() if not name.startswith("_") and callable(x)]
    own = [x for x in found if getattr(x, "__module__", None) == module.__name__]
    return [x for x in own if not inspect.isclass(x) or "__call__" in vars(x)]  # not what terms remember


TERMS = [term for module in (observations, rewards, terminations, metrics) for term in terms_of(module)]
TERMS.remove(terminations.out_of_range)  # it is about a rectangle in the world
TERMS.remove(terminations.off_ground)  # likewise, and in envs/test_ground.py


def moving(scene, turn=TURN, shift=SHIFT, gravity=None):
    """A robot that slides on one foot and leans, in a world that is turned and moved (gravity with it, where given)."""
    model = plain.edited(scene.model)
    if gravity is not None:
        model.opt.gravity = gravity
    qpos = scene.home_qpos.copy()
    qpos[2] -= 0.004
    qpos[scene.joint_qpos_adr[scene.joint_names.index("dof_right_knee_04")]] -= 0.5
    qpos[3:7] = Rotation.from_euler("zyx", [0.4, 0.06, -0.04]).as_quat(scalar_first=True)
    rng = np.random.default_rng(0)
    qvel = rng.normal(0, 0.5, model.nv)
    qvel[:3] = [0.6, -0.4, 0.2]
    qpos[:3] = turn.apply(qpos[:3]) + shift
    qpos[3:7] = (turn * Rotation.from_quat(qpos[3:7], scalar_first=True)).as_quat(scalar_first=True)
    qvel[:3] = turn.apply(qvel[:3])
    ctrl = scene.home_joint_pos[: scene.num_actuated] + rng.normal(0, 0.1, model.nu)
    return plain.forward(model, plain.make(model, qpos, qvel), ctrl)


def seen(scene, data: mujoco.MjData):
    rng = np.random.default_rng(1)
    actions = rng.normal(0, 1, (2, scene.num_actuated))
    times = ContactTimes(
        *(jnp.asarray(rng.uniform(0, 1, 2), jnp.float32) for _ in inspect.signature(ContactTimes).parameters)
    )
    memory = commanded(0.5, -0.2, 0.3) | commanded(0.6, 0.8, name="gait") | {"task.scene.sensors.feet": times}
    return context(
        scene,
        data,
        action=actions[0],
        prev_action=actions[1],
        episode_step=3,
        memory=memory,
        fields={"sensordata_max": data.sensordata},
    )


def value(term, ctx):
    params = PARAMS.get(term, {})
    if inspect.isclass(term):
        made = term(**params)
        return made(ctx, made.init(ctx))[0]
    return term(ctx, **params)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: f"{term.__module__.rpartition('.')[2]}.{term.__name__}")
def test_a_term_says_the_same_in_a_turned_world(kbot_feet, term):
    """North and the origin are nowhere in particular; a metric of a place is the same for a turn about that place."""
    shift = SHIFT * (term is not metrics.drift)
    here = value(term, seen(kbot_feet, moving(kbot_feet, Rotation.identity(), 0.0)))
    there = value(term, seen(kbot_feet, moving(kbot_feet, shift=shift)))
    np.testing.assert_allclose(there, here, rtol=2e-4, atol=2e-4 * (1 + np.abs(here).max()))


def test_a_turned_world_is_another_one(kbot_feet):
    """What the test above rests on: quantities in the world's frame do differ, and feet touch the floor."""
    here, there = (seen(kbot_feet, moving(kbot_feet, *at)) for at in ((Rotation.identity(), 0.0), (TURN, SHIFT)))
    for name in ("base_lin_vel_w", "base_pos", "base_quat", "xpos", "cvel", "subtree_com"):
        assert np.abs(getattr(here, name) - getattr(there, name)).max() > 0.1, name
    assert np.any(here.contact("feet").found)
    assert np.linalg.norm(here.base_lin_vel[:2] - here.base_lin_vel_w[:2]) > 0.1
    for term in TERMS:
        assert np.all(np.isfinite(value(term, here))), term


@pytest.mark.parametrize("term", [observations.base_lin_vel, observations.base_ang_vel])
def test_what_the_body_feels_is_the_same_in_a_world_that_lies_on_its_side(kbot_feet, term):
    """For any turn, not only about the vertical; gravity does not enter."""
    turn = Rotation.from_euler("xyz", [0.9, -1.2, 2.0])
    here, there = (value(term, seen(kbot_feet, moving(kbot_feet, r, 0.0))) for r in (Rotation.identity(), turn))
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_a_commanded_heading_turns_with_the_world(kbot_feet):
    """A robot that faces elsewhere turns towards the heading that is elsewhere in the same way."""
    command = commands.uniform_velocity(
        x_range=(-1, 1), y_range=(-1, 1), yaw_rate_range=(-1, 1), heading_share=1.0, heading_range=(-0.5, 0.5)
    )
    here, there = (seen(kbot_feet, moving(kbot_feet, *at)) for at in ((Rotation.identity(), 0.0), (TURN, SHIFT)))
    goal = command.init(here, KEY)
    turned = jax.tree.map(lambda x: x, goal)
    object.__setattr__(turned, "heading", goal.heading + YAW)
    np.testing.assert_allclose(command(there, turned)[0], command(here, goal)[0], atol=1e-5)
    assert np.abs(command(there, goal)[0] - command(here, goal)[0]).max() > 0.1


EVENTS = {
    "push": (events.push(speed=(0.2, 0.6)), "qvel"),
    "external_force": (
        events.external_force(bodies="base", duration_range_s=(0.1, 0.2), force_range=(-9, 9)),
        "xfrc_applied",
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_pushes_are_vectors_of_the_world(kbot_feet, name):
    """With the same draw a push points the same way, whichever way the robot faces."""
    term, field = EVENTS[name]
    added = []
    for at in ((Rotation.identity(), 0.0), (TURN, SHIFT)):
        ctx = seen(kbot_feet, moving(kbot_feet, *at))
        writes, _ = term(ctx, KEY, jnp.asarray(True), term.init(ctx))
        before = ctx.qvel if field == "qvel" else 0.0
        added.append(np.asarray(writes[field] - before))
    np.testing.assert_allclose(added[1], added[0], atol=1e-5)
    assert np.abs(added[0]).max() > 0.1


def test_a_reset_places_the_base_in_the_world(kbot_feet):
    """Heights, places and velocities are added in the world's axes, angular velocity in the base's; the turn is the
    world's, too."""
    params = {f"{name}_range": (0.1, 0.9) for name in ("height", "xy", "tilt", "yaw", "lin_vel", "ang_vel")}
    poses = []
    for at in ((Rotation.identity(), 0.0), (TURN, SHIFT)):
        ctx = seen(kbot_feet, moving(kbot_feet, *at))
        writes = events.reset_root(ctx, KEY, **params)
        before, after = (Rotation.from_quat(q[3:7], scalar_first=True) for q in (ctx.qpos, writes["qpos"]))
        poses.append((writes["qpos"][:3] - ctx.qpos[:3], (after * before.inv()).as_matrix(), writes["qvel"][:6]))
    for here, there in zip(*poses, strict=True):
        np.testing.assert_allclose(there, here, atol=1e-5)


def test_a_body_is_deformed_alike_in_any_frame(kbot_feet):
    """A body whose frame was chosen otherwise becomes the same piece of matter: its centre of mass, shift included, and
    its inertia turn with the frame."""
    rng = np.random.default_rng(0)
    frame = Rotation.from_euler("xyz", [0.7, -0.4, 1.9])
    mass, ipos, moments = 2.0, rng.normal(0, 0.1, 3), np.array([0.03, 0.02, 0.04])
    axes = Rotation.from_euler("xyz", [0.3, 0.8, -0.5])
    drawn = (0.1, np.exp([0.1, -0.1, 0.05]), np.array([0.1, -0.2, 0.1]), np.array([0.02, -0.05, 0.03]))
    bodies = []
    for turn in (Rotation.identity(), frame):
        quat = (turn * axes).as_quat(scalar_first=True)
        args = [jnp.asarray(x, jnp.float32) for x in (mass, turn.apply(ipos), quat, moments, *drawn)]
        new_mass, new_ipos, new_quat, new_moments = (np.asarray(x, float) for x in randomize._deform(*args))
        turned = Rotation.from_quat(new_quat, scalar_first=True).as_matrix()
        inertia = turned @ np.diag(new_moments) @ turned.T
        back = turn.inv().as_matrix()
        bodies.append((new_mass, back @ new_ipos, back @ inertia @ back.T))
    for here, there in zip(*bodies, strict=True):
        np.testing.assert_allclose(there, here, atol=1e-5)
    shift = axes.apply(drawn[3])  # along the principal axes
    np.testing.assert_allclose(bodies[0][1], ipos + shift, atol=1e-6)


def test_an_imu_is_tilted_about_its_own_axes(kbot_feet):
    """However the body's frame lies; and moved along the body's axes."""
    scene = kbot_feet
    site = scene.model.site(scene.robot.imu_site).id
    frame = Rotation.from_euler("xyz", [0.7, -0.4, 1.9])
    results = []
    for turn in (Rotation.identity(), frame):
        model = plain.edited(scene.model)
        old = Rotation.from_quat(model.site_quat[site], scalar_first=True)
        model.site_quat[site] = (turn * old).as_quat(scalar_first=True)
        other = type(scene)(scene.robot, model, scene.contacts)
        ctx = seen(other, moving(scene, Rotation.identity(), 0.0))
        writes = randomize.imu_mount(ctx, KEY, position_range=(-0.1, 0.1), tilt_range=(-0.5, 0.5))
        new = Rotation.from_quat(np.asarray(writes["site_quat"][site], float), scalar_first=True)
        results.append(((turn.inv() * new).as_matrix(), writes["site_pos"][site] - model.site_pos[site]))
    for here, there in zip(*results, strict=True):
        np.testing.assert_allclose(there, here, atol=1e-5)
