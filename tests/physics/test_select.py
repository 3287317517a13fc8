"""Which engine is chosen, and what engines say about themselves."""

import pytest

from ksim.physics import choose_engine, make_physics
from ksim.physics.base import DERIVED_FIELDS, initial_state
from ksim.physics.batch import BatchPhysics
from ksim.physics.mjx import MjxPhysics


def test_auto_follows_the_accelerator():
    choice = choose_engine("auto", "cpu", threads=3)
    assert choice.engine == "mujoco"
    assert "3 CPU threads" in choice.reason and "no accelerator" in choice.reason
    for backend in ("gpu", "tpu"):
        choice = choose_engine("auto", backend)
        assert choice.engine == "mjx" and backend in choice.reason


@pytest.mark.parametrize("engine", ["mjx", "mujoco"])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_given_engine_is_taken(engine, backend):
    choice = choose_engine(engine, backend)
    assert choice.engine == engine and f"physics={engine}" in choice.reason


def test_engines_by_name(model):
    assert isinstance(make_physics("mujoco", model, (), 1), BatchPhysics)
    assert isinstance(make_physics("mjx", model, ()), MjxPhysics)
    with pytest.raises(ValueError, match="'mjc' is neither"):
        make_physics("mjc", model, ())


@pytest.mark.parametrize("engine", ["mjx", "mujoco"])
def test_which_model_fields_may_differ_between_envs(engine, model):
    physics = make_physics(engine, model, (), 1)
    for name in ("geom_friction", "body_mass", "body_ipos", "dof_armature", "actuator_biasprm"):
        assert physics.has_model_field(name)
    for name in ("nq", "names", "no_such_field", "geom_fricton"):
        assert not physics.has_model_field(name)


def test_a_field_that_engines_do_not_keep_current_is_refused(model):
    """subtree_linvel is computed only where a sensor needs it, contacts change their number."""
    for name in ("subtree_linvel", "cfrc_ext", "efc_force", "contact", "xposs"):
        with pytest.raises(AttributeError, match=name):
            initial_state(model, (name,), 2)
    assert {"xpos", "site_xmat", "sensordata", "actuator_force"} <= DERIVED_FIELDS


def test_the_initial_state_is_qpos0_at_rest(model):
    state = initial_state(model, ("xpos", "site_xmat"), 3)
    assert (state.qpos == model.qpos0.astype("float32")).all() and state.qpos.shape == (3, model.nq)
    assert not state.qvel.any() and state.fields["site_xmat"].shape == (3, model.nsite, 3, 3)
    assert state.fields["xpos"].shape == (3, model.nbody, 3)
