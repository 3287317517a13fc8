"""Masses and inertias that differ between envs."""

import mujoco
import numpy as np

from ksim.physics.base import INERTIAL_FIELDS


def tiled(model: mujoco.MjModel, name: str, count: int) -> np.ndarray:
    """A field of the model, the same in each of `count` envs."""
    value = getattr(model, name)
    return np.tile(value, (count, *[1] * value.ndim)).astype(np.float32)


def far_off(model: mujoco.MjModel, count: int) -> dict[str, np.ndarray]:
    """Inertial fields of some envs: those of the first as compiled, the others far from it."""
    rng = np.random.default_rng(0)
    fields = {name: tiled(model, name, count) for name in INERTIAL_FIELDS}
    free_to_move = [i for i in range(1, model.nbody) if not model.body_simple[i]]
    for env in range(1, count):
        fields["body_mass"][env] *= rng.uniform(0.5, 2.0, model.nbody)
        fields["body_inertia"][env] *= rng.uniform(0.7, 1.3, (model.nbody, 1))
        fields["body_ipos"][env, free_to_move] += rng.uniform(-0.03, 0.03, (len(free_to_move), 3))
        fields["body_iquat"][env, free_to_move] += rng.uniform(-0.2, 0.2, (len(free_to_move), 4))
        fields["body_iquat"][env] /= np.linalg.norm(fields["body_iquat"][env], axis=1, keepdims=True)
        fields["dof_armature"][env, -1:] += rng.uniform(0, 0.1)
        fields["tendon_armature"][env] += rng.uniform(0, 0.2, model.ntendon)
    return {name: value.astype(np.float32) for name, value in fields.items()}
