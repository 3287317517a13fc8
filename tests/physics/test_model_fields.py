"""Fields of the model that differ between envs, and what they imply, on both engines."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import plain
from support.jit import quick_jit

from ksim.physics import initial_state, make_physics
from ksim.physics.base import INERTIAL_FIELDS, PEAK_FIELD

# A free base with an arm on a ball joint and a hinge, a slide with an actuator, and a body that stands still.
MODEL = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 1"/>
    <body name="post" pos="2 0 0"><geom size="0.1"/></body>
    <body name="base" pos="0 0 1">
      <freejoint/>
      <geom type="box" size="0.2 0.1 0.05"/>
      <site name="imu" pos="0.05 0 0"/>
      <body name="upper" pos="0.2 0 0">
        <joint name="shoulder" type="ball" damping="0.1"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
        <body name="lower" pos="0.3 0 0">
          <joint name="elbow" type="hinge" axis="0 1 0" armature="0.01" frictionloss="0.1"/>
          <geom name="palm" type="capsule" size="0.03" fromto="0 0 0 0.2 0 0.1"/>
        </body>
      </body>
    </body>
    <body name="cart" pos="0 3 1">
      <joint name="rail" type="slide" axis="1 0 0" range="-1 1" limited="true"/>
      <geom name="box" size="0.1 0.1 0.1" type="box"/>
    </body>
  </worldbody>
  <actuator><motor joint="elbow" gear="2"/><motor joint="rail" gear="3"/></actuator>
  <sensor>
    <accelerometer site="imu"/>
    <contact name="touch" geom1="palm" data="found force" reduce="maxforce" num="4"/>
  </sensor>
</mujoco>
"""
E = 3


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(MODEL)


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def physics(request, model):
    return make_physics(request.param, model, ("xipos", "site_xpos", "sensordata", PEAK_FIELD), threads=1)


@pytest.fixture(scope="module")
def step(physics):
    return quick_jit(physics.step)


@pytest.fixture(scope="module")
def inertial(model):
    """Inertial fields of 3 envs: the compiled ones, and two that are far from them."""
    rng = np.random.default_rng(0)
    fields = {name: np.tile(getattr(model, name), (E, *[1] * getattr(model, name).ndim)) for name in INERTIAL_FIELDS}
    for env in (1, 2):
        fields["body_mass"][env] *= rng.uniform(0.5, 2.0, model.nbody)
        fields["body_inertia"][env] *= rng.uniform(0.7, 1.3, (model.nbody, 1))
        fields["body_ipos"][env, 2:-1] += rng.uniform(-0.03, 0.03, (model.nbody - 3, 3))
        fields["body_iquat"][env, 2:-1] += rng.uniform(-0.2, 0.2, (model.nbody - 3, 4))
        fields["body_iquat"][env] /= np.linalg.norm(fields["body_iquat"][env], axis=1, keepdims=True)
        fields["dof_armature"][env, -2:] += rng.uniform(0, 0.1, 2)
    return {name: value.astype(np.float32) for name, value in fields.items()}


def compiled_anew(model, fields, env):
    """A copy of the model with one env's values, made whole by MuJoCo itself."""
    own = plain.edited(model, **{name: value[env] for name, value in fields.items()})
    own.body_sameframe[:] = own.geom_sameframe[:] = own.site_sameframe[:] = 0
    mujoco.mj_setConst(own, mujoco.MjData(own))
    return own


def with_constants(physics, model, fields, mask_E):
    names = physics.implied_fields(fields)
    old = {n: jnp.asarray(np.tile(getattr(model, n), (E, *[1] * getattr(model, n).ndim)), jnp.float32) for n in names}
    fields = jax.tree.map(jnp.asarray, fields) | old
    return jax.device_get(fields | quick_jit(physics.constants)(fields, jnp.asarray(mask_E)))


def test_robots_of_other_inertia_move_as_mujoco_compiles_them(physics, step, model, inertial):
    """Bodies whose inertia was compiled into their own frame included, for which MuJoCo has shortcuts."""
    assert model.body_sameframe[model.body("base").id] != 0
    fields = with_constants(physics, model, inertial, [True] * E)
    state = initial_state(model, physics.fields, E)
    qpos, qvel = np.array(state.qpos), np.random.default_rng(1).normal(0, 1, (E, model.nv)).astype(np.float32)
    qpos[:, -1] = 1.05  # the slide is beyond its limit
    ctrl = np.full((E, 3, model.nu), 0.5, np.float32)
    after = jax.device_get(step(replace(state, qpos=qpos, qvel=qvel), fields, ctrl))
    for env in range(E):
        own = compiled_anew(model, inertial, env)
        data = plain.step(own, plain.make(own, qpos[env], qvel[env]), ctrl[env])
        np.testing.assert_allclose(after.qvel[env], data.qvel, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(after.fields["xipos"][env], data.xipos, atol=1e-5)
    assert np.abs(after.qvel[1] - after.qvel[0]).max() > 0.1


def test_moved_sites_measure_where_they_are(physics, model):
    site_pos = np.tile(model.site_pos, (E, 1, 1)).astype(np.float32)
    site_pos[1, 0] += [0.1, 0.02, -0.3]
    state = initial_state(model, physics.fields, E)
    zero = np.zeros((E, model.nu), np.float32)
    after = quick_jit(physics.forward)(state, {"site_pos": site_pos}, zero, np.ones(E, bool))
    for env in range(E):
        own = plain.edited(model, site_pos=site_pos[env])
        own.site_sameframe[:] = 0
        data = plain.forward(own, plain.make(own, model.qpos0), zero[env])
        np.testing.assert_allclose(after.fields["site_xpos"][env], data.site_xpos, atol=1e-6)
        np.testing.assert_allclose(after.fields["sensordata"][env], data.sensordata, atol=1e-3)


def test_forces_are_applied_in_every_substep_and_leave_nothing(physics, step, model):
    """A wrench on a body and a force on a joint, in one env; without them a step is as ever."""
    state = initial_state(model, physics.fields, E)
    ctrl = np.zeros((E, 3, model.nu), np.float32)
    forces = {"xfrc_applied": np.zeros((E, model.nbody, 6)), "qfrc_applied": np.zeros((E, model.nv))}
    forces["xfrc_applied"][1, model.body("upper").id] = [10, -5, 20, 1, 2, -1]
    forces["qfrc_applied"][1, -1] = 7.0
    before = jax.device_get(step(state, {}, ctrl))
    after = jax.device_get(step(state, jax.tree.map(jnp.float32, forces), ctrl))
    for env in range(E):
        data = plain.make(model, model.qpos0)
        for name, value in forces.items():
            getattr(data, name)[:] = value[env]
        plain.step(model, data, ctrl[env])
        np.testing.assert_allclose(after.qvel[env], data.qvel, rtol=1e-4, atol=1e-4)
    assert np.abs(after.qvel[1] - before.qvel[1]).max() > 0.1
    assert np.array_equal(jax.device_get(step(state, {}, ctrl)).qvel, before.qvel)


def test_the_peak_is_the_largest_of_the_substeps(physics, step, model):
    """Of every element of the sensors: a hand that falls onto the floor touches it in the middle of the step."""
    state = initial_state(model, physics.fields, E)
    qpos, qvel = np.array(state.qpos), np.zeros((E, model.nv), np.float32)
    qpos[:, 2] = [0.2, 0.06, 0.08]
    qvel[:, 2] = [-1.0, -2.0, -3.0]
    ctrl = np.zeros((E, 3, model.nu), np.float32)
    start = replace(state, qpos=qpos, qvel=qvel)
    after = jax.device_get(step(start, {}, ctrl))
    peaks = []
    for env in range(E):
        data, rows = plain.make(model, qpos[env], qvel[env]), []
        for _ in range(3):
            mujoco.mj_step(model, data)
            rows.append(data.sensordata.copy())
        peaks.append(np.max(rows, axis=0))
        scale = 1 + np.abs(peaks[env])
        assert np.all(np.abs(after.fields[PEAK_FIELD][env] - peaks[env]) < 2e-2 * scale)
    assert np.any(np.array(peaks)[:, 3:] > 0)
    ones = np.ones(E, bool)
    after = jax.device_get(quick_jit(physics.forward)(start, {}, ctrl[:, 0], ones))
    assert np.array_equal(after.fields[PEAK_FIELD], after.fields["sensordata"])


def test_gravity_may_differ_between_envs(model, physics, step):
    """As C MuJoCo steps a model of that gravity."""
    gravity = np.array([[0.0, 0.0, -9.81], [1.0, -2.0, -9.0], [0.0, 0.0, 3.0]])
    assert physics.has_model_field("opt.gravity") and not physics.has_model_field("opt.gravty")
    state = initial_state(model, physics.fields, E)
    after = step(state, {"opt.gravity": jnp.asarray(gravity)}, np.zeros((E, 4, model.nu)))
    for env in range(E):
        own = copy.copy(model)
        own.opt.gravity = gravity[env]
        data = plain.step(own, plain.make(own, model.qpos0, np.zeros(model.nv)), np.zeros((4, model.nu)))
        np.testing.assert_allclose(after.qvel[env], data.qvel, atol=1e-4)
