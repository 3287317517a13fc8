"""Each engine against plain C MuJoCo: the same K-Bot states and controls, in contact and in the air."""

import copy
import json
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from support import plain
from support.child import output

from ksim.physics.base import ACCELERATION_FIELDS, POSITION_AND_VELOCITY_FIELDS

CONTACT, AIR = slice(0, 4), slice(4, 8)


def plain_step(model, case, ctrl_ESu=None):
    """All envs after the substeps, one plain simulation each."""
    ctrl_ESu = case.ctrl_ESu if ctrl_ESu is None else ctrl_ESu
    return [
        plain.step(model, plain.make(model, q, v), c) for q, v, c in zip(case.qpos, case.qvel, ctrl_ESu, strict=True)
    ]


def stacked(datas, name):
    return np.stack([plain.field(data, name) for data in datas])


def sensors(model, stages):
    """Which elements of sensordata belong to sensors of these stages."""
    found = zip(model.sensor_adr, model.sensor_dim, model.sensor_needstage, strict=True)
    return np.concatenate([np.arange(adr, adr + dim) for adr, dim, stage in found if mujoco.mjtStage(stage) in stages])


POS_VEL = (mujoco.mjtStage.mjSTAGE_POS, mujoco.mjtStage.mjSTAGE_VEL)
ACC = (mujoco.mjtStage.mjSTAGE_ACC,)


def compare(state, datas):
    """float32: kinematics to 1e-5 m, velocities to 1e-4 in the air and, with contacts, to 1e-3 (m/s, rad/s)."""
    np.testing.assert_allclose(state.qpos, stacked(datas, "qpos"), atol=1e-5)
    np.testing.assert_allclose(state.qvel[AIR], stacked(datas, "qvel")[AIR], atol=1e-4)
    np.testing.assert_allclose(state.qvel[CONTACT], stacked(datas, "qvel")[CONTACT], atol=1e-3)
    for name in ("xpos", "site_xpos", "xmat", "site_xmat", "xquat"):
        np.testing.assert_allclose(state.fields[name], stacked(datas, name), atol=1e-5, err_msg=name)


def test_the_case_is_a_hard_one(model, case):
    """What the other tests rely on: feet press on the floor, robots hang in the air, actuators reach their limits."""
    datas = plain_step(model, case)
    assert all(data.ncon >= 3 for data in datas[CONTACT])
    assert all(data.ncon == 0 for data in datas[AIR])
    first = plain_step(model, case, case.ctrl_ESu[:, :1])
    at_limit = np.abs(stacked(first, "actuator_force")) == model.actuator_forcerange[:, 1]
    assert at_limit[CONTACT].any() and at_limit[AIR].any() and not at_limit.all()


def test_four_steps_agree_with_plain_mujoco(engine, model, case):
    compare(engine.step(case.state, case.ctrl_ESu), plain_step(model, case))


@pytest.mark.parametrize("field", ["body_mass", "geom_friction", "actuator_gainprm", "dof_armature"])
def test_a_wrong_model_parameter_shows(engine, model, case, field):
    """The comparison fails where the plain simulation has 5 % more mass, friction, gain or armature."""
    wrong = plain.edited(model, **{field: getattr(model, field) * 1.05})
    state = engine.step(case.state, case.ctrl_ESu)
    with pytest.raises(AssertionError):
        compare(state, plain_step(wrong, case))


def test_twenty_steps_agree(engine, scene, model, case):
    """After 20 physics steps in float32, engines are within 1e-5 (m, rad) and 1e-3 (m/s, rad/s) of plain C MuJoCo.

    Measured were 1e-6 and 2e-5. Actuators that touch their limits, and contacts that are made or broken, multiply
    rounding errors: here no actuator does; in double precision, below, some do.
    """
    home = scene.home_joint_pos
    gentle_ESu = np.float32(home + 0.3 * (case.ctrl_ESu[[0, 2, 3, 0, 4, 6, 7, 4]] - home))
    state, datas = case.state, [plain.make(model, q, v) for q, v in zip(case.qpos, case.qvel, strict=True)]
    others = copy.deepcopy(datas)
    heavy = plain.edited(model, body_mass=model.body_mass * 1.05)
    for _ in range(5):
        state = engine.step(state, gentle_ESu)
        for data, other, ctrl_Su in zip(datas, others, gentle_ESu, strict=True):
            plain.step(model, data, ctrl_Su)
            plain.step(heavy, other, ctrl_Su)
    np.testing.assert_allclose(state.qpos, stacked(datas, "qpos"), atol=1e-5)
    np.testing.assert_allclose(state.qvel, stacked(datas, "qvel"), atol=1e-3)
    assert np.abs(state.qpos - stacked(others, "qpos")).max() > 1e-3  # a robot that is 5 % heavier is told apart


def test_nothing_is_stale_after_a_step(engine, model, case):
    """Every position and velocity field belongs to the state that the step returns, as C MuJoCo computes it anew."""
    state = engine.step(case.state, case.ctrl_ESu)
    poses = zip(state.qpos, state.qvel, strict=True)
    fresh = [plain.forward(model, plain.make(model, q, v), np.zeros(model.nu)) for q, v in poses]
    before = stacked(plain_step(model, case, case.ctrl_ESu[:, :-1]), "xpos")  # one substep earlier
    assert np.abs(before - stacked(fresh, "xpos")).max() > 1e-4
    for name in POSITION_AND_VELOCITY_FIELDS:
        value = stacked(fresh, name)
        np.testing.assert_allclose(
            state.fields[name], value, atol=1e-5 * max(1.0, np.abs(value).max(initial=0)), err_msg=name
        )
    ids = sensors(model, POS_VEL)
    np.testing.assert_allclose(state.fields["sensordata"][:, ids], stacked(fresh, "sensordata")[:, ids], atol=1e-5)


def test_forces_are_those_of_the_last_substep(engine, model, case):
    """Acceleration-stage fields and sensors are what a loop of mj_step leaves behind."""
    state = engine.step(case.state, case.ctrl_ESu)
    datas = plain_step(model, case)
    for name in ACCELERATION_FIELDS:
        value = stacked(datas, name)
        scale = max(1.0, np.abs(value).max(initial=0))
        np.testing.assert_allclose(state.fields[name], value, atol=1e-4 * scale, err_msg=name)
    ids = sensors(model, ACC)
    touch = stacked(datas, "sensordata")[:, ids]
    assert np.abs(touch[CONTACT]).max() > 50  # feet press
    np.testing.assert_allclose(state.fields["sensordata"][:, ids], touch, atol=1e-3 * np.abs(touch).max())


def test_forward_touches_only_the_masked_envs(engine, model, case):
    """A masked env gets mj_forward of its own state, the others keep every bit; states stay as they are."""
    stepped = engine.step(case.state, case.ctrl_ESu)
    mask_E = np.array([1, 0, 0, 0, 0, 1, 0, 0], bool)
    ctrl_Eu = case.ctrl_ESu[:, 1]
    # The masked envs are elsewhere now, as after a reset.
    qpos, qvel = np.where(mask_E[:, None], case.qpos, stepped.qpos), np.where(mask_E[:, None], case.qvel, stepped.qvel)
    placed = replace(stepped, qpos=np.float32(qpos), qvel=np.float32(qvel), qacc_warmstart=0 * stepped.qacc_warmstart)
    state = engine.forward(placed, ctrl_Eu, mask_E)
    for name, value in state.fields.items():
        assert np.array_equal(value[~mask_E], stepped.fields[name][~mask_E]), name
    for name in ("qpos", "qvel", "act", "qacc_warmstart"):
        assert np.array_equal(getattr(state, name), getattr(placed, name)), name
    for env in np.flatnonzero(mask_E):
        alone = plain.forward(model, plain.make(model, case.qpos[env], case.qvel[env]), ctrl_Eu[env])
        for name, value in state.fields.items():
            expected = plain.field(alone, name)
            scale = max(1.0, np.abs(expected).max(initial=0))
            np.testing.assert_allclose(value[env], expected, atol=1e-4 * scale, err_msg=name)
    nothing = engine.forward(placed, ctrl_Eu, np.zeros(8, bool))
    assert all(np.array_equal(nothing.fields[name], placed.fields[name]) for name in placed.fields)


def test_model_fields_per_env(engine, model, case):
    """Friction, gain and mass that differ by env give what plain simulations of edited models give."""
    factor = np.linspace(0.3, 1.4, 8)
    fields = {
        "geom_friction": model.geom_friction * factor[:, None, None],
        "actuator_gainprm": model.actuator_gainprm * factor[::-1, None, None],
        "body_mass": model.body_mass * (0.8 + 0.3 * factor[:, None]),
    }
    fields = {name: value.astype(np.float32) for name, value in fields.items()}
    state = engine.step(case.state, case.ctrl_ESu, **fields)
    forward = engine.forward(case.state, case.ctrl_ESu[:, 0], np.ones(8, bool), **fields)
    plainly = engine.step(case.state, case.ctrl_ESu)
    for env in range(8):
        edited = plain.edited(model, **{name: value[env] for name, value in fields.items()})
        data = plain.step(edited, plain.make(edited, case.qpos[env], case.qvel[env]), case.ctrl_ESu[env])
        np.testing.assert_allclose(state.qvel[env], data.qvel, atol=1e-3)
        assert np.abs(plainly.qvel[env] - data.qvel).max() > 0.02
        data = plain.forward(edited, plain.make(edited, case.qpos[env], case.qvel[env]), case.ctrl_ESu[env, 0])
        force = data.actuator_force
        np.testing.assert_allclose(forward.fields["actuator_force"][env], force, atol=1e-4 * np.abs(force).max())
    again = engine.step(case.state, case.ctrl_ESu)  # the model's own values are back, and nothing else is left over
    assert np.array_equal(again.qvel, plainly.qvel)


def test_each_substep_has_its_own_controls(engine, model, case):
    """Controls of substep s act in substep s; held controls are the same as equal ones."""
    late = case.ctrl_ESu.copy()
    late[:, 3] += 0.5
    state = engine.step(case.state, late)
    np.testing.assert_allclose(state.qvel, stacked(plain_step(model, case, late), "qvel"), atol=1e-3)
    assert np.abs(state.qvel - engine.step(case.state, late[:, ::-1]).qvel).max() > 0.1
    # An env whose controls are held ends at the same bits whether the others' are held or not.
    held = np.repeat(case.ctrl_ESu[:, :1], 4, axis=1)
    mixed = held.copy()
    mixed[1:, 2] += 0.1
    assert np.array_equal(engine.step(case.state, held).qvel[0], engine.step(case.state, mixed).qvel[0])


def test_a_broken_env_is_visible_and_alone(engine, case):
    """NaN in one env, and a state of 1e12 in another, stay there to be seen; the others keep every bit."""
    good = engine.step(case.state, case.ctrl_ESu)
    qvel = np.array(case.state.qvel)
    qvel[2, 0] = np.nan
    qvel[5, 7] = 1e12
    state = engine.step(replace(case.state, qvel=qvel), case.ctrl_ESu)
    for env in range(8):
        # The guard of the env asks for |x| < 1e10 in every element.
        fine = all(np.all(np.abs(x) < 1e10) for x in (state.qpos[env], state.qvel[env]))
        assert fine == (env not in (2, 5)), env
        if fine:
            assert np.array_equal(state.qvel[env], good.qvel[env])
            assert all(np.array_equal(state.fields[name][env], good.fields[name][env]) for name in good.fields)


IN_DOUBLE = """
import json, sys
from dataclasses import replace
import jax, jax.numpy as jnp, numpy as np
from support import plain
from support.jit import quick_jit
from ksim.config.compose import compose
from ksim.envs.scene import build_scene
from ksim.physics import initial_state, make_physics
from ksim.system import jax_setup

jax_setup.use_compile_cache()
qpos, qvel, ctrl_ESu = (np.array(x) for x in json.load(open(sys.argv[1])))
cfg = compose(["task=kbot_standing", "task.sim.iterations=100", "task.sim.ls_iterations=50"])
model = build_scene(cfg.task).model
model.opt.tolerance = 1e-15
state = initial_state(model, (), len(qpos))
assert state.qpos.dtype == np.float64
start = replace(state, qpos=jnp.asarray(qpos), qvel=jnp.asarray(qvel))
trajectories = {}
for name in ("mjx", "mujoco"):
    step = quick_jit(make_physics(name, model, (), threads=1).step)
    state, trajectory = start, []
    for t in range(20):
        state = step(state, {}, jnp.asarray(ctrl_ESu[:, t % 4, None]))
        trajectory.append(np.hstack([state.qpos, state.qvel]).tolist())
    trajectories[name] = trajectory
for name, field in {"plain": "body_mass", "heavy": "body_mass", "sticky": "geom_friction"}.items():
    m = plain.edited(model, **{field: getattr(model, field) * (1.0 if name == "plain" else 1.05)})
    datas, trajectory = [plain.make(m, q, v) for q, v in zip(qpos, qvel)], []
    for t in range(20):
        for data, ctrl_Su in zip(datas, ctrl_ESu):
            plain.step(m, data, ctrl_Su[t % 4, None])
        trajectory.append([np.hstack([data.qpos, data.qvel]).tolist() for data in datas])
    trajectories[name] = trajectory
print(json.dumps(trajectories))
"""


def test_steps_agree_in_double_precision(case, tmp_path):
    """64-bit JAX and a converged solver: MJX, the batch and plain mj_step agree to 1e-6 after one physics step, and
    after each of 20; measured were 1e-12."""
    file = tmp_path / "case.json"
    file.write_text(json.dumps([x.tolist() for x in (case.qpos, case.qvel, case.ctrl_ESu)]))
    printed = output(IN_DOUBLE, str(file), JAX_ENABLE_X64="1", PJRT_NPROC="8")
    trajectory_TE = {name: np.array(x) for name, x in json.loads(printed).items()}
    for name in ("mjx", "mujoco"):
        np.testing.assert_allclose(trajectory_TE[name], trajectory_TE["plain"], rtol=0, atol=1e-6)
    for wrong in ("heavy", "sticky"):
        first = trajectory_TE[wrong][0] - trajectory_TE["plain"][0]
        assert np.abs(first[CONTACT]).max() > 1e-4, wrong
