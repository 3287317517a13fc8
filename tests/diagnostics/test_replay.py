"""What a benchmark plays again is what the training does."""

from functools import partial

import jax
import mujoco
import numpy as np
import pytest
from support.bench import SMALL

from ksim.config.compose import compose
from ksim.diagnostics import replay
from ksim.rl import PPOState
from ksim.training.experiment import Experiment, build


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return build(compose(SMALL))


@pytest.fixture(scope="module")
def state(experiment) -> PPOState:
    return experiment.algorithm.init(experiment.env, jax.random.key(0))


@pytest.fixture(scope="module")
def recording(experiment, state) -> replay.Recording:
    record = partial(replay.record, experiment.env, num_steps=4)
    return jax.jit(record)(state.model.policy, state.env_carry, state.obs, jax.random.key(1))


def test_the_recording_is_what_the_training_asks_of_the_engine(experiment, state, recording):
    assert recording.action_TEa.shape == (4, 16, 1)
    assert recording.ctrl_TESu.shape == (4, 16, 2, 1)
    np.testing.assert_array_equal(recording.physics.qpos[0], state.env_carry.envs.physics.qpos)
    np.testing.assert_allclose(
        recording.ctrl_TESu[:, :, 0], np.clip(10.0 * recording.action_TEa, -10.0, 10.0), rtol=1e-6
    )
    # Nothing resets here so early: each state is where the engine took the one before.
    physics, fields, ctrl = jax.tree.map(
        lambda x: x[0], (recording.physics, recording.model_fields, recording.ctrl_TESu)
    )
    new = experiment.env.physics.step(physics, fields, ctrl)
    stays_E = np.abs(np.asarray(recording.physics.qpos[1]) - np.asarray(new.qpos)).max(axis=1) < 1e-6
    assert stays_E.mean() > 0.7  # random ages: a few time out


def test_the_ceiling_steps_the_recorded_states(experiment, recording):
    ceiling = replay.Ceiling(experiment.env.scene.model, recording, threads=1)
    assert ceiling.seconds() > 0
    model = experiment.env.scene.model
    data = mujoco.MjData(model)
    for env in range(16):
        mujoco.mj_resetData(model, data)
        for name in ("qpos", "qvel", "qacc_warmstart"):
            getattr(data, name)[:] = getattr(recording.physics, name)[-1, env]
        for ctrl in np.asarray(recording.ctrl_TESu[-1, env]):
            data.ctrl[:] = ctrl
            mujoco.mj_step(model, data)
        np.testing.assert_array_equal(ceiling.batch.bind("qpos")[env], data.qpos)
