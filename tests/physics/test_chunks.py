"""MJX pays for the envs that are reset, not for all; and an env's bits are its own."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support.inertia import far_off, tiled
from support.jit import quick_jit

from ksim.physics import initial_state, make_physics
from ksim.physics import mjx as engine
from ksim.physics.base import INERTIAL_FIELDS
from ksim.physics.chunks import chunk_size, where_masked

ARM = """
<mujoco>
  <worldbody>
    <body name="upper">
      <joint axis="0 1 0"/><geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
      <body name="lower" pos="0.3 0 0">
        <joint axis="0 1 0"/><geom type="capsule" size="0.03" fromto="0 0 0 0.2 0 0.1"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
E = 70  # three chunks of 32, the last one not full
MASKED = (0, 1, 5, 32, 33, E)
ORDER = np.random.default_rng(0).permutation(E)


def test_a_share_of_many_envs_and_all_of_a_few():
    assert [chunk_size(n) for n in (1, 8, 32, 33, 512, 1024, 4096)] == [1, 8, 32, 32, 32, 64, 256]


def mask(count: int) -> np.ndarray:
    """Masks that grow: an env of one is in all that follow."""
    return np.isin(np.arange(E), ORDER[:count])


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(ARM)


@pytest.fixture(scope="module", params=["forward", "constants"])
def masked(request, model):
    """For each number of masked envs: what came back and how many envs were computed; and what there was before."""
    physics, computed = make_physics("mjx", model, ("xpos", "qacc")), []
    fields = far_off(model, E)
    if request.param == "forward":
        name, original = "forward", engine.mjx.forward
        state = initial_state(model, physics.fields, E)
        rng = np.random.default_rng(1)
        state = jax.tree.map(lambda x: jnp.asarray(x + rng.normal(0, 1, x.shape), jnp.float32), state)
        ctrl_Eu = jnp.zeros((E, 0))
        before = state.fields

        def run(mask_E):
            return physics.forward(state, {}, ctrl_Eu, mask_E).fields
    else:
        name, original = "set_const", engine.set_const
        before = {name: tiled(model, name, E) for name in physics.implied_fields(INERTIAL_FIELDS)}

        def run(mask_E):
            return physics.constants(fields | before, mask_E)

    def counted(own, *args):
        jax.debug.callback(lambda *_: computed.append(1), own.body_mass, args[0].qpos)
        return original(own, *args)

    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.mjx if name == "forward" else engine, name, counted)
        program = quick_jit(run)
        for count in MASKED:
            computed.clear()
            after = jax.device_get(program(jnp.asarray(mask(count))))
            jax.effects_barrier()
            results[count] = (after, len(computed))
    return results, jax.device_get(before)


def test_only_as_many_chunks_are_computed_as_the_masked_envs_fill(masked):
    results, _ = masked
    assert {count: computed for count, (_, computed) in results.items()} == {0: 0, 1: 32, 5: 32, 32: 32, 33: 64, E: 96}


def test_a_masked_env_gets_the_same_bits_whichever_others_are(masked):
    """And the others keep every bit of theirs."""
    results, before = masked
    everywhere, _ = results[E]
    for count, (after, _) in results.items():
        chosen = mask(count)
        for name, old in before.items():
            assert np.array_equal(after[name][chosen], everywhere[name][chosen]), (count, name)
            assert np.array_equal(after[name][~chosen], np.asarray(old)[~chosen]), (count, name)
    assert all(np.any(everywhere[name] != old) for name, old in before.items())


def test_chunks_give_each_env_its_own():
    """Against the function itself, for any mask and for batches of several chunks."""
    rng = np.random.default_rng(0)
    for num_envs in (5, 32, 33, 64, 600):
        x_E, y_E3 = rng.normal(size=num_envs), rng.normal(size=(num_envs, 3))
        for share in (0.0, 0.1, 0.7, 1.0):
            mask_E = rng.uniform(size=num_envs) < share
            old = {"a": np.zeros(num_envs, np.float32), "b": np.ones((num_envs, 3), np.float32)}
            new = where_masked(lambda x, y: {"a": x + y[0], "b": x * y}, (x_E, y_E3), jnp.asarray(mask_E), old)
            np.testing.assert_allclose(new["a"], np.where(mask_E, x_E + y_E3[:, 0], 0.0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(
                new["b"], np.where(mask_E[:, None], x_E[:, None] * y_E3, 1.0), rtol=1e-5, atol=1e-6
            )
