"""K-Bot on both engines: each compiled once, with every derived field and a few model fields that differ by env."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support.jit import quick_jit

from ksim.config.compose import compose
from ksim.envs.scene import Scene, build_scene
from ksim.physics import Physics, PhysicsState, initial_state, make_physics
from ksim.physics.base import DERIVED_FIELDS

E, S = 8, 4
FIELDS = tuple(sorted(DERIVED_FIELDS))
PER_ENV = ("geom_friction", "actuator_gainprm", "body_mass")


@pytest.fixture(scope="session")
def scene() -> Scene:
    """K-Bot on a floor, with a solver that converges: engines agree where the problem has one solution."""
    cfg = compose(["task=kbot_standing", "task.sim.iterations=100", "task.sim.ls_iterations=50"])
    return build_scene(cfg.task)


@pytest.fixture(scope="session")
def model(scene) -> mujoco.MjModel:
    return scene.model


@dataclass(frozen=True)
class Case:
    """States of 8 envs and controls of 4 substeps: the first 4 robots stand on their feet, the others hang in the air,
    and some actuators are at their limits.

    qpos, qvel and ctrl_ESu are float64 with float32 values, so that every engine starts from the same numbers.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    ctrl_ESu: np.ndarray
    state: PhysicsState


@pytest.fixture(scope="session")
def case(scene, model) -> Case:
    rng = np.random.default_rng(0)
    qpos = np.tile(scene.home_qpos, (E, 1))
    qpos[:, 7:] += rng.uniform(-0.05, 0.05, (E, model.nq - 7))
    qpos[:, 3:7] += rng.normal(0, 0.02, (E, 4))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    qpos[:4, 2] -= 0.004
    qpos[4:, 2] += 0.5
    qvel = rng.normal(0, 0.2, (E, model.nv))
    ctrl_ESu = scene.home_joint_pos + rng.normal(0, 0.05, (E, S, model.nu))
    ctrl_ESu[[1, 5], :, 4] += 1.0
    qpos, qvel, ctrl_ESu = (x.astype(np.float32).astype(np.float64) for x in (qpos, qvel, ctrl_ESu))
    state = initial_state(model, FIELDS, E)
    return Case(qpos, qvel, ctrl_ESu, replace(state, qpos=jnp.asarray(qpos), qvel=jnp.asarray(qvel)))


@dataclass(frozen=True)
class Engine:
    """An engine and its compiled functions; model fields that are not given are the model's own in every env."""

    name: str
    physics: Physics
    compiled_step: Callable[..., PhysicsState]
    compiled_forward: Callable[..., PhysicsState]

    def step(self, state: PhysicsState, ctrl_ESu: Any, **fields: Any) -> PhysicsState:
        return jax.device_get(self.compiled_step(state, self._fields(fields), jnp.asarray(ctrl_ESu, jnp.float32)))

    def forward(self, state: PhysicsState, ctrl_Eu: Any, mask_E: Any, **fields: Any) -> PhysicsState:
        ctrl_Eu = jnp.asarray(ctrl_Eu, jnp.float32)
        return jax.device_get(self.compiled_forward(state, self._fields(fields), ctrl_Eu, jnp.asarray(mask_E)))

    def _fields(self, fields: dict[str, Any]) -> dict[str, jax.Array]:
        own = {name: np.tile(v := getattr(self.physics.model, name), (E, *[1] * v.ndim)) for name in PER_ENV}
        return {name: jnp.asarray(value, jnp.float32) for name, value in (own | fields).items()}


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def engine(request, model) -> Engine:
    physics = make_physics(request.param, model, FIELDS, threads=2)
    return Engine(request.param, physics, quick_jit(physics.step), quick_jit(physics.forward))
