"""The C engine: threads, several users of one object, MuJoCo's errors and warnings."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from ksim.physics import PhysicsState, initial_state
from ksim.physics.batch import BatchPhysics

FIELDS = ("xpos", "cvel", "sensordata", "actuator_force", "qacc")


def same(a, b) -> bool:
    """Whether two states are the same in every bit."""
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b)))


def standing(scene, num_envs: int, seed: int = 0) -> PhysicsState:
    """Robots on the floor in random poses."""
    rng = np.random.default_rng(seed)
    qpos = np.tile(scene.home_qpos, (num_envs, 1))
    qpos[:, 7:] += rng.uniform(-0.1, 0.1, (num_envs, 20))
    qvel = rng.normal(0, 0.3, (num_envs, 26))
    state = initial_state(scene.model, FIELDS, num_envs)
    return replace(state, qpos=jnp.asarray(qpos, jnp.float32), qvel=jnp.asarray(qvel, jnp.float32))


def controls(scene, num_envs: int, seed: int = 0) -> jax.Array:
    noise = np.random.default_rng(seed).normal(0, 0.1, (num_envs, 4, 20))
    return jnp.asarray(scene.home_joint_pos + noise, jnp.float32)


def trajectory(step, state, ctrl_ESu, fields, num_steps=3):
    states = []
    for _ in range(num_steps):
        state = step(state, fields, ctrl_ESu)
        states.append(state)
    return states


def test_the_number_of_threads_changes_no_bit(scene):
    state, ctrl_ESu = standing(scene, 16), controls(scene, 16)
    one, two, five = (
        trajectory(BatchPhysics(scene.model, FIELDS, threads).step, state, ctrl_ESu, {}) for threads in (1, 2, 5)
    )
    assert same(one, two) and same(one, five)


def test_interleaved_users_of_one_engine_equal_each_alone(scene):
    """Calls in turn, inside one program, and from two threads at once: every result is that of one alone."""

    def user(seed, num_envs):
        """A training with states, controls and frictions of its own."""
        friction = np.tile(scene.model.geom_friction, (num_envs, 1, 1)) * (0.3 * seed)
        fields = {"geom_friction": jnp.asarray(friction, jnp.float32)}
        return standing(scene, num_envs, seed), controls(scene, num_envs, seed), fields

    users = [user(1, 6), user(2, 6), user(3, 9)]  # the first two share even the pool
    alone = [trajectory(BatchPhysics(scene.model, FIELDS, 2).step, *user) for user in users]
    assert not same(alone[0], alone[1])
    shared = BatchPhysics(scene.model, FIELDS, 2)

    states = [user[0] for user in users]
    for t in range(3):
        for i, (_, ctrl_ESu, fields) in enumerate(users):
            states[i] = shared.step(states[i], fields, ctrl_ESu)
            assert same(states[i], alone[i][t])

    (a, a_ctrl, a_fields), (b, b_ctrl, b_fields), _ = users

    @jax.jit
    def program(state_a, state_b):
        for _ in range(3):
            state_a, state_b = shared.step(state_a, a_fields, a_ctrl), shared.step(state_b, b_fields, b_ctrl)
        return state_a, state_b

    assert same(program(a, b), (alone[0][-1], alone[1][-1]))

    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            first = pool.submit(trajectory, shared.step, a, a_ctrl, a_fields)
            second = pool.submit(trajectory, shared.step, b, b_ctrl, b_fields)
            assert same(first.result(timeout=60), alone[0]) and same(second.result(timeout=60), alone[1])


def test_a_call_depends_on_its_arguments_alone(scene):
    """Nothing of earlier calls is left in the pool: not their states, controls, warm starts or model fields."""
    state, ctrl_ESu = standing(scene, 6), controls(scene, 6)
    fresh = BatchPhysics(scene.model, FIELDS, 2).step(state, {}, ctrl_ESu)
    used = BatchPhysics(scene.model, FIELDS, 2)
    other = standing(scene, 6, seed=5)
    used.step(replace(other, qvel=10 * other.qvel), {}, 2 * ctrl_ESu)
    used.forward(other, {}, ctrl_ESu[:, 0], jnp.arange(6) < 3)
    assert same(used.step(state, {}, ctrl_ESu), fresh)


def test_a_population_is_mapped_over(scene):
    """vmap over members gives what one call for each gives."""
    physics = BatchPhysics(scene.model, FIELDS, 2)
    state, ctrl_ESu = standing(scene, 6), controls(scene, 6)
    members = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (state, ctrl_ESu))
    mapped = jax.vmap(lambda s, c: physics.step(s, {}, c))(*members)
    flat = physics.step(state, {}, ctrl_ESu)
    assert same(jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), mapped), flat)


# What a step depends on besides what the carry holds: time, inputs, which equalities are on, where mocap bodies are,
# user data.
PUPPET = """
<mujoco>
  <size nuserdata="3"/>
  <worldbody>
    <body name="hand" mocap="true" pos="0 0 1"><geom size="0.02" contype="0" conaffinity="0"/></body>
    <body name="puppet" pos="0 0 1"><freejoint/><geom size="0.1"/></body>
    <body name="arm" pos="1 0 1">
      <joint name="a"/><geom type="capsule" size="0.02" fromto="0 0 0 0.2 0 0"/>
      <body pos="0.2 0 0"><joint name="b" axis="0 1 0"/><geom type="capsule" size="0.02" fromto="0 0 0 0.2 0 0"/></body>
    </body>
  </worldbody>
  <equality>
    <weld body1="hand" body2="puppet"/><joint joint1="a" joint2="b"/><joint joint1="b" joint2="a" active="false"/>
  </equality>
  <actuator><general joint="a" dyntype="filter" dynprm="0.1" gainprm="1"/><motor joint="b"/></actuator>
  <sensor><clock/><framepos objtype="body" objname="hand"/></sensor>
</mujoco>
"""
INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION


def parts(model: mujoco.MjModel) -> dict[str, slice]:
    """Where each component of the integration state lies in a row."""
    found, start = {}, 0
    for component in mujoco.mjtState.__members__.values():
        if component & INTEGRATION and int(component).bit_count() == 1:
            size = mujoco.mj_stateSize(model, component)
            found[component.name.removeprefix("mjSTATE_").lower()] = slice(start, start + size)
            start += size
    assert start == mujoco.mj_stateSize(model, INTEGRATION)
    return found


PARTS = parts(mujoco.MjModel.from_xml_string(PUPPET))


def test_the_puppet_has_every_component_of_a_state():
    """But for plugins, plasticity, and delays of actuators and sensors, which no robot here has."""
    empty = {name for name, part in PARTS.items() if part.start == part.stop}
    assert empty <= {"history", "plastic", "plugin"} and len(PARTS) >= 13


@pytest.mark.parametrize("call", ["step", "forward"])
@pytest.mark.parametrize("poisoned", [name for name, part in PARTS.items() if part.stop > part.start])
def test_the_whole_state_is_written_anew_in_each_call(call, poisoned):
    """Whatever lies in the pool's memory, component by component: the same bits come back, and stay there."""
    model = mujoco.MjModel.from_xml_string(PUPPET)
    fields = ("xpos", "qacc", "sensordata", "actuator_force", "qfrc_smooth")
    physics = BatchPhysics(model, fields, 2)
    rng = np.random.default_rng(0)
    state = replace(initial_state(model, fields, 3), qvel=jnp.asarray(rng.normal(0, 1, (3, model.nv)), jnp.float32))
    state = replace(state, act=jnp.ones((3, model.na)))
    ctrl_ESu = jnp.asarray(rng.normal(0, 1, (3, 2, model.nu)), jnp.float32)
    forces = {"xfrc_applied": jnp.ones((3, model.nbody, 6))}  # the other forces are not given: they are zero

    def run():
        if call == "step":
            return physics.step(state, forces, ctrl_ESu)
        return physics.forward(state, forces, ctrl_ESu[:, 0], jnp.ones(3, bool))

    clean = jax.device_get(run())
    (batch,) = physics._batches.values()
    left = np.array(batch.state)
    assert np.all(left[:, PARTS["xfrc_applied"]] == 1.0) and not left[:, PARTS["qfrc_applied"]].any()
    batch.state[:, PARTS[poisoned]] = 0.0 if poisoned == "eq_active" else rng.uniform(0.1, 0.9)
    assert not np.array_equal(batch.state, left)
    assert same(jax.device_get(run()), clean)
    assert np.array_equal(batch.state, left)


SLIDERS = """
<mujoco>
  <worldbody>
    <body name="a"><joint name="x" type="slide"/><geom size="0.1" contype="0" conaffinity="0"/></body>
    <body name="b" pos="1 0 0"><joint name="y" type="slide"/><geom size="0.1" contype="0" conaffinity="0"/></body>
  </worldbody>
  <equality><joint joint1="x" joint2="y"/></equality>
  <actuator><motor joint="x"/></actuator>
</mujoco>
"""


@pytest.mark.parametrize("call", ["step", "changing controls", "forward"])
def test_an_error_of_mujoco_ends_only_its_env(call):
    """An env in which MuJoCo raises comes back as NaN; the others run to completion, and later calls are right.

    Whether the controls are held, which makes one call into the pool, or not; several envs may fail at once.
    """
    model = mujoco.MjModel.from_xml_string(SLIDERS)
    physics = BatchPhysics(model, ("xpos",), 2)
    state = replace(initial_state(model, ("xpos",), 4), qvel=jnp.ones((4, 2)))
    ctrl = jnp.zeros((4, 3, 1)).at[:, 1].set(1.0 if call == "changing controls" else 0.0)

    def run(eq_type):
        fields = {"eq_type": jnp.asarray(eq_type, jnp.float32)[:, None]}
        if call != "forward":
            return physics.step(state, fields, ctrl)
        return physics.forward(state, fields, ctrl[:, 0], jnp.ones(4, bool))

    joint = int(mujoco.mjtEq.mjEQ_JOINT)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(run([joint] * 4)))
    good, bad = run([joint] * 4), run([joint, 99, joint, joint])  # 99 is no kind of constraint: MuJoCo raises
    assert np.isnan(bad.qpos[1]).all()
    rest = np.array([0, 2, 3])
    assert same(*(jax.tree.map(lambda x: x[rest], s) for s in (good, bad)))
    assert same(run([joint] * 4), good)
    assert np.isnan(np.array(run([99, joint, joint, 99]).qpos)).all(axis=1).tolist() == [True, False, False, True]


def test_diverged_envs_say_nothing_on_the_terminal_or_on_disk(scene, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    state = standing(scene, 4)
    broken = replace(state, qvel=state.qvel.at[1].set(jnp.nan))
    after = BatchPhysics(scene.model, FIELDS, 2).step(broken, {}, controls(scene, 4))
    assert np.isnan(after.qvel[1]).any() and not np.isnan(after.qvel[0]).any()
    assert capfd.readouterr() == ("", "")
    assert list(Path(tmp_path).iterdir()) == []
