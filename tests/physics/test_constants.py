"""The constants of a model that its masses and inertias imply, on both engines, against `mj_setConst`."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import plain
from support.inertia import far_off, tiled
from support.jit import quick_jit

from ksim.physics import make_physics
from ksim.physics.base import INERTIAL_FIELDS

# Every kind of joint, tendon, transmission, equality and camera that both engines know, and bodies that stand still.
MODEL = """
<mujoco>
  <worldbody>
    <geom type="plane" size="0 0 1"/>
    <camera name="of_the_world" mode="trackcom" pos="1 1 1"/>
    <body name="post" pos="2 0 0"><geom size="0.1"/></body>
    <body name="base" pos="0 0 1">
      <freejoint/>
      <geom type="box" size="0.2 0.1 0.05"/>
      <site name="hip" pos="0.05 0 0"/>
      <camera name="follower" mode="trackcom" pos="0 0 1" euler="20 0 0"/>
      <camera name="watcher" mode="targetbodycom" target="upper" pos="0 0 1"/>
      <light name="lamp" mode="trackcom" pos="0 0 1"/>
      <body name="upper" pos="0.2 0 0">
        <joint name="shoulder" type="ball"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
        <site name="middle" pos="0.1 0 0.05"/>
        <body name="lower" pos="0.3 0 0">
          <joint name="elbow" axis="0 1 0" armature="0.01"/>
          <geom type="capsule" size="0.03" fromto="0 0 0 0.2 0 0.1"/>
          <site name="hand" pos="0.1 0 0.05"/>
        </body>
      </body>
    </body>
    <body name="cart" pos="0 3 1">
      <joint name="rail" type="slide" axis="1 0 0"/>
      <geom size="0.1 0.1 0.1" type="box"/>
      <body name="pole" pos="0 0 0.1" euler="0 30 0">
        <joint name="swing" axis="0 1 0"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0 0 0.5"/>
      </body>
    </body>
    <body name="sled" pos="0 -3 1"><joint name="ice" type="slide" axis="0 1 0"/><geom size="0.1"/></body>
  </worldbody>
  <tendon>
    <fixed name="coupling" armature="0.02"><joint joint="rail" coef="1"/><joint joint="swing" coef="-0.5"/></fixed>
    <spatial name="rope" armature="0.1"><site site="hip"/><site site="middle"/><site site="hand"/></spatial>
  </tendon>
  <equality>
    <connect body1="post" body2="cart" anchor="0 0 0"/>
    <weld body1="base" body2="sled"/>
    <joint joint1="elbow" joint2="swing"/>
    <tendon tendon1="coupling"/>
  </equality>
  <actuator>
    <motor joint="elbow" gear="2"/><motor joint="rail" gear="3"/><motor tendon="coupling" gear="3"/>
    <motor tendon="rope"/><position joint="swing" kp="3" kv="1"/>
  </actuator>
</mujoco>
"""
E = 3
FRAMES = {"body_sameframe", "geom_sameframe", "site_sameframe"}  # shortcuts, which no env of its own inertia takes
DRAWN_ONLY = {"light_poscom0"}


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(MODEL)


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def physics(request, model):
    return make_physics(request.param, model, ("xpos",), threads=1)


def compiled_anew(model, fields, env):
    """A copy of the model with one env's values, made whole by MuJoCo itself."""
    own = plain.edited(model, **{name: value[env] for name, value in fields.items()})
    mujoco.mj_setConst(own, mujoco.MjData(own))
    return own


def arrays(model):
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: np.array(x) for name, x in found.items() if isinstance(x, np.ndarray) and x.size}


def test_nothing_else_follows_from_the_inertia(model):
    """Of all the arrays of mjModel, `mj_setConst` changes those that engines name, and what only drawing reads."""
    names = set(make_physics("mujoco", model, ()).implied_fields(INERTIAL_FIELDS))
    before = arrays(plain.edited(model))
    inertial = far_off(model, E)
    changed = set()
    for field in INERTIAL_FIELDS:
        after = arrays(compiled_anew(model, {field: inertial[field]}, 1))
        changed |= {name for name, value in after.items() if not np.array_equal(value, before[name])} - {field}
    assert changed - FRAMES == names | DRAWN_ONLY
    by_mjx = set(make_physics("mjx", model, ()).implied_fields(INERTIAL_FIELDS))
    assert names - by_mjx == {"dof_length", "bvh_aabb"}  # for sleeping and collisions, which MJX does without
    assert by_mjx <= names


def test_constants_follow_the_inertia(physics, model):
    """In the envs of the mask, as `mj_setConst` makes them; the others keep theirs."""
    inertial = far_off(model, E)
    names = physics.implied_fields(inertial)
    assert {"tendon_invweight0", "cam_poscom0", "actuator_acc0"} < set(names)
    old = {name: jnp.asarray(tiled(model, name, E)) for name in names}
    new = jax.device_get(quick_jit(physics.constants)(inertial | old, jnp.array([True, True, False])))
    for name in names:
        for env in (0, 1):
            expected = getattr(compiled_anew(model, inertial, env), name)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(new[name][env], expected, rtol=1e-4, atol=1e-5 * scale, err_msg=name)
        assert np.array_equal(new[name][2], old[name][2]), name
        assert not np.allclose(new[name][1], new[name][0], rtol=1e-3), name


def test_only_inertia_implies_anything_and_only_what_the_model_has(physics, model):
    assert physics.implied_fields(["geom_friction", "actuator_gainprm"]) == ()
    assert "tendon_invweight0" in physics.implied_fields(["tendon_armature"])
    ball = "<mujoco><worldbody><body><joint type='ball'/><geom size='.1' pos='.2 0 0'/></body></worldbody></mujoco>"
    bare = make_physics("mjx", mujoco.MjModel.from_xml_string(ball), ())
    expected = ("body_subtreemass", "dof_M0", "dof_invweight0", "body_invweight0")
    assert bare.implied_fields(["body_mass"]) == expected


def test_an_inertia_that_mujoco_refuses_breaks_its_env_alone():
    """MuJoCo raises where the centre of mass of a body that was compiled as simple moves: that env shows NaN."""
    xml = "<mujoco><worldbody><body><joint type='slide'/><geom size='.1'/></body></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(xml)
    physics = make_physics("mujoco", model, (), 1)
    fields = {"body_ipos": tiled(model, "body_ipos", E)}
    fields["body_ipos"][1, 1] += 0.1
    fields |= {name: tiled(model, name, E) for name in physics.implied_fields(fields)}
    new = jax.device_get(physics.constants(fields, jnp.ones(E, bool)))
    for name, value in new.items():
        assert np.isnan(value[1]).all() and np.array_equal(value[[0, 2]], fields[name][[0, 2]]), name
