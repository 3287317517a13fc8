"""Terms of a contact sensor, against C MuJoCo's contacts and velocities of the same feet."""

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import plain
from support.terms import commanded, context

from ksim.envs.contacts import ContactTimes
from ksim.errors import ConfigError
from ksim.mdp import metrics, observations, rewards

LEFT, RIGHT = "LFootBushing_GPF_1517_12", "RFootBushing_GPF_1517_12"
DT = 0.02  # of the contexts


@pytest.fixture(scope="module")
def data(kbot_feet) -> mujoco.MjData:
    """K-Bot slides forward on its left foot, with the right one in the air."""
    qpos = kbot_feet.home_qpos.copy()
    qpos[2] -= 0.002
    qpos[kbot_feet.model.joint("dof_right_knee_04").qposadr[0]] -= 0.5
    qvel = np.zeros(kbot_feet.model.nv)
    qvel[:6] = [0.9, -0.2, 0.0, 0.0, 0.5, 1.0]
    simulated = plain.make(kbot_feet.model, qpos, qvel)
    ctrl = kbot_feet.home_joint_pos[: kbot_feet.num_actuated]
    return plain.step(kbot_feet.model, simulated, np.tile(ctrl, (2, 1)))


def geoms(scene, foot):
    return [g for g in range(scene.model.ngeom) if scene.model.body(int(scene.model.geom_bodyid[g])).name == foot]


def point(scene, data, foot):
    """Mean place of a foot's geoms, and their mean velocity, in the world."""
    velocities = []
    for geom in geoms(scene, foot):
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(scene.model, data, mujoco.mjtObj.mjOBJ_GEOM, geom, velocity, 0)
        velocities.append(velocity[3:])
    return data.geom_xpos[geoms(scene, foot)].mean(axis=0), np.mean(velocities, axis=0)


def normal_force(scene, data, foot):
    total = 0.0
    for c in range(data.ncon):
        if set(data.contact[c].geom) & set(geoms(scene, foot)):
            force = np.zeros(6)
            mujoco.mj_contactForce(scene.model, data, c, force)
            total += force[0]
    return total


def times(contact=(0, 0), air=(0, 0), last_contact=(0, 0), last_air=(0, 0)):
    """What the sensor remembers of the left foot and the right one, in env steps."""
    return {"task.scene.sensors.feet": ContactTimes(*(jnp.array(x) for x in (contact, air, last_contact, last_air)))}


def test_one_foot_touches(kbot_feet, data):
    ctx = context(kbot_feet, data)
    np.testing.assert_array_equal(observations.contacts(ctx, sensor="feet"), [1, 0])
    force = [normal_force(kbot_feet, data, foot) for foot in (LEFT, RIGHT)]
    assert force[0] > 10 and force[1] == 0
    np.testing.assert_allclose(observations.contact_force(ctx, sensor="feet"), force, rtol=1e-3)
    assert metrics.contact_share(ctx, sensor="feet") == 0.5


def test_only_feet_that_touch_slip(kbot_feet, data):
    _, velocity = point(kbot_feet, data, LEFT)
    assert np.linalg.norm(velocity[:2]) > 0.1
    slip = rewards.feet_slip(context(kbot_feet, data), sensor="feet")
    np.testing.assert_allclose(slip, np.sum(velocity[:2] ** 2), rtol=1e-3)


def test_clearance_is_that_of_moving_feet(kbot_feet, data):
    expected = 0.0
    for foot in (LEFT, RIGHT):
        place, velocity = point(kbot_feet, data, foot)
        expected += abs(place[2] - 0.08) * np.linalg.norm(velocity[:2])
    ctx = context(kbot_feet, data, memory=commanded(0.1, 0.0, 0.0))
    for command in ({}, {"command": "twist", "min_command": 0.05}):
        value = rewards.feet_clearance(ctx, sensor="feet", height=0.08, **command)
        np.testing.assert_allclose(value, expected, rtol=1e-3)
    assert rewards.feet_clearance(ctx, sensor="feet", height=0.08, command="twist", min_command=0.2) == 0


def test_the_peak_force_above_a_limit_counts(kbot_feet, data):
    """The largest force of one contact of each foot, over the substeps."""
    peak = np.array(data.sensordata)
    for side, values in ((LEFT, [300.0, 20.0]), (RIGHT, [0.0, 90.0])):
        for geom, value in zip(geoms(kbot_feet, side), values, strict=True):
            start = kbot_feet.sensor_slice(f"feet/{kbot_feet.model.geom(geom).name}").start
            peak[start : start + 2] = [1.0, value]
    ctx = context(kbot_feet, data, fields={"sensordata_max": peak})
    for limit, expected in ((100.0, 200.0), (50.0, 290.0), (400.0, 0.0)):
        np.testing.assert_allclose(rewards.contact_force(ctx, sensor="feet", limit=limit), expected, rtol=1e-5)


def test_a_step_earns_its_time_in_the_air_when_it_lands(kbot_feet, data):
    def earned(memory, **command):
        return rewards.feet_air_time(context(kbot_feet, data, memory=memory), sensor="feet", threshold_s=0.3, **command)

    lands = times(contact=(1, 5), last_air=(20, 30))  # the left one after 0.4 s; the right one has stood for a while
    np.testing.assert_allclose(earned(lands), 20 * DT - 0.3, atol=1e-6)
    np.testing.assert_allclose(earned(times(contact=(1, 1), last_air=(5, 10))), 15 * DT - 0.6, atol=1e-6)  # a patter
    assert earned(times(contact=(2, 0), air=(0, 40), last_air=(20, 30))) == 0
    moving = lands | commanded(0.5, 0.0, 0.0)
    assert earned(moving, command="twist") > 0 and earned(moving, command="twist", min_command=0.6) == 0


def test_time_in_the_air(kbot_feet, data):
    ctx = context(kbot_feet, data, memory=times(contact=(3, 0), air=(0, 7)))
    np.testing.assert_allclose(observations.air_time(ctx, sensor="feet"), [0, 7 * DT], rtol=1e-6)


def test_an_unknown_sensor_or_command_is_named(kbot_feet, data):
    ctx = context(kbot_feet, data, memory=commanded(0.0))
    for term in (rewards.feet_slip, observations.contacts, metrics.contact_share):
        with pytest.raises(ConfigError, match="no contact sensor 'foot' .*there are 'feet'"):
            term(ctx, sensor="foot")
    with pytest.raises(ConfigError, match="no command 'twst'.*did you mean 'twist'"):
        rewards.track_lin_vel(ctx, command="twst")
