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


SLIDERS = """
<mujoco>
  <worldbody>
    <body name="a"><joint name="x" type="slide"/><geom size="0.1" contype="0" conaffinity="0"/></body>
    <body name="b" pos="1 0 0"><joint name="y" type="slide"/><geom size="0.1" contype="0" conaffinity="0"/></body>
  </worldbody>
  <equality><joint joint1="x" joint2="y"/></equality>
</mujoco>
"""


@pytest.mark.parametrize("call", ["step", "forward"])
def test_an_error_of_mujoco_ends_only_its_env(call):
    """An env in which MuJoCo raises comes back as NaN; the others run to completion, and later calls are right."""
    model = mujoco.MjModel.from_xml_string(SLIDERS)
    physics = BatchPhysics(model, ("xpos",), 2)
    state = replace(initial_state(model, ("xpos",), 4), qvel=jnp.ones((4, 2)))
    ctrl = jnp.zeros((4, 3, 0))

    def run(eq_type):
        fields = {"eq_type": jnp.asarray(eq_type, jnp.float32)[:, None]}
        if call == "step":
            return physics.step(state, fields, ctrl)
        return physics.forward(state, fields, ctrl[:, 0], jnp.ones(4, bool))

    joint = int(mujoco.mjtEq.mjEQ_JOINT)
    good, bad = run([joint] * 4), run([joint, 99, joint, joint])  # 99 is no kind of constraint: MuJoCo raises
    assert np.isnan(bad.qpos[1]).all()
    rest = np.array([0, 2, 3])
    assert same(*(jax.tree.map(lambda x: x[rest], s) for s in (good, bad)))
    assert same(run([joint] * 4), good)


def test_diverged_envs_say_nothing_on_the_terminal_or_on_disk(scene, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    state = standing(scene, 4)
    broken = replace(state, qvel=state.qvel.at[1].set(jnp.nan))
    after = BatchPhysics(scene.model, FIELDS, 2).step(broken, {}, controls(scene, 4))
    assert np.isnan(after.qvel[1]).any() and not np.isnan(after.qvel[0]).any()
    assert capfd.readouterr() == ("", "")
    assert list(Path(tmp_path).iterdir()) == []
