"""Plain C MuJoCo, one simulation at a time: what every engine and the env must agree with."""

import copy

import mujoco
import numpy as np
from numpy.typing import ArrayLike


def make(
    model: mujoco.MjModel, qpos: ArrayLike, qvel: ArrayLike | None = None, warmstart: ArrayLike | None = None
) -> mujoco.MjData:
    """A simulation in a state."""
    data = mujoco.MjData(model)
    data.qpos = qpos
    data.qvel = np.zeros(model.nv) if qvel is None else qvel
    data.qacc_warmstart = np.zeros(model.nv) if warmstart is None else warmstart
    return data


def step(model: mujoco.MjModel, data: mujoco.MjData, ctrl_Su: ArrayLike) -> mujoco.MjData:
    """`mj_step` with each substep's controls, then positions and velocities of the new state, forces of the last."""
    for ctrl_u in np.asarray(ctrl_Su):
        data.ctrl = ctrl_u
        mujoco.mj_step(model, data)
    mujoco.mj_step1(model, data)
    return data


def forward(model: mujoco.MjModel, data: mujoco.MjData, ctrl_u: ArrayLike) -> mujoco.MjData:
    """`mj_forward` with controls."""
    data.ctrl = ctrl_u
    mujoco.mj_forward(model, data)
    return data


def edited(model: mujoco.MjModel, **fields: ArrayLike) -> mujoco.MjModel:
    """A copy of a model with other values in some of its fields."""
    model = copy.copy(model)
    for name, value in fields.items():
        getattr(model, name)[:] = value
    return model


def field(data: mujoco.MjData, name: str) -> np.ndarray:
    """A field of a simulation; orientation matrices as (n, 3, 3)."""
    value = np.array(getattr(data, name))
    return value.reshape(-1, 3, 3) if name.endswith("mat") else value
