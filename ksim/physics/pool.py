"""C MuJoCo for code that steps one env at a time and maps over envs: one call of the pool for all of them.

Unlike `ksim.physics.batch`, derived fields are those that `mj_step` leaves behind, as `mjx.step` does: of the state
before the last substep. A call depends on its arguments alone; inside the callback only NumPy is used.
"""

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import mujoco
import numpy as np
from jaxtyping import Array
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from ksim.errors import ConfigError
from ksim.physics.base import float_dtype
from ksim.physics.batch import MOVABLE_FIELDS, SAME_FRAME_FIELDS
from ksim.system import cpus

log = logging.getLogger(__name__)

_STAGE_NONE = mujoco.mjtStage.mjSTAGE_NONE.value

STATE = ("qpos", "qvel", "act", "qacc_warmstart", "time")  # what goes from step to step
INPUTS = ("ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat")  # what a step depends on besides


class Pool:
    """A thread pool that steps any number of copies of a model.

    Args:
        model: the compiled model.
        fields: names of the mjData fields to return.
        threads: size of the thread pool; None for one per CPU that this process may use.
    """

    def __init__(self, model: mujoco.MjModel, fields: Sequence[str], threads: int | None = None):
        self.model = model
        self.fields = tuple(fields)
        self.threads = threads or cpus.available()
        data = mujoco.MjData(model)
        self._shapes = {name: _shape(data, name) for name in {*fields, *STATE, *INPUTS}}
        self._default_row = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, self._default_row, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._batches: dict[tuple[int, tuple[str, ...]], Batch] = {}
        self._lock = threading.Lock()  # a Batch must not be used from several threads at once
        if mujoco.get_mju_user_warning() is None:
            # Of its own, MuJoCo prints about each diverged env and writes MUJOCO_LOG.TXT into the working directory.
            mujoco.set_mju_user_warning(log.debug)

    def step(
        self, inputs: Mapping[str, Array], model_fields: Mapping[str, Array], num_substeps: int
    ) -> dict[str, Array]:
        """Step one env by so many substeps, or with none of them compute a full forward pass; `vmap` maps it.

        An env in which MuJoCo raises an error comes back with NaN in `qpos`.

        Args:
            inputs: fields of mjData by name: state, controls, forces, mocap poses; what is derived is left out.
            model_fields: this env's own fields of mjModel, by name, with "opt." before those of its options.
            num_substeps: how many.

        Returns:
            `fields`.

        Raises:
            ConfigError: a field of mjModel cannot differ between envs.
        """
        for name in model_fields:
            if name not in MODEL_FIELDS:
                raise ConfigError(f"mjModel's {name!r} cannot differ between envs on physics=mujoco")
        given = {name: value for name, value in inputs.items() if name in STATE or name in INPUTS}
        shapes = {name: jax.ShapeDtypeStruct(self._shapes[name], float_dtype()) for name in self.fields}
        found: dict[str, Array] = jax.pure_callback(
            partial(self._host_step, num_substeps), shapes, given, dict(model_fields), vmap_method="expand_dims"
        )
        return found

    # Host side: NumPy only.

    def _host_step(
        self, num_substeps: int, inputs: Mapping[str, np.ndarray], model_fields: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        given = {name: (np.asarray(x), self._shapes[name]) for name, x in inputs.items()}
        own = {name: (np.asarray(x), _model_shape(self.model, name)) for name, x in model_fields.items()}
        axes = np.broadcast_shapes(*(x.shape[: x.ndim - len(shape)] for x, shape in (*given.values(), *own.values())))
        num_envs = math.prod(axes)
        with self._lock:
            batch = self._batch(num_envs, tuple(sorted(own)))
            batch.state[:] = self._default_row
            for array, (x, shape) in (
                *((batch.bind(name), value) for name, value in given.items()),
                *((batch.expand(name), value) for name, value in own.items()),
            ):
                array[:] = np.broadcast_to(x, (*axes, *shape)).reshape(array.shape)
            failed = np.zeros(num_envs, bool)
            try:
                if num_substeps:
                    batch.step(None, nstep=num_substeps, stage=_STAGE_NONE)
                else:
                    batch.forward(None)
            except SimulationError as error:
                failed[error.ids] = True
            found = {name: batch.bind(name).astype(float_dtype()) for name in self.fields}
        found["qpos"][failed] = np.nan
        return {name: x.reshape((*axes, *self._shapes[name])) for name, x in found.items()}

    def _batch(self, num_envs: int, model_fields: tuple[str, ...]) -> Batch:
        """The pool for this number of envs: `nsim` and the expanded fields are fixed when it is built."""
        key = (num_envs, model_fields)
        if key not in self._batches:
            batch = Batch(self.model, nsim=num_envs, nthread=self.threads)
            for name in self.fields:
                batch.bind(name)
            for name in model_fields:
                batch.expand(name)
            if MOVABLE_FIELDS.intersection(model_fields):
                for name in SAME_FRAME_FIELDS:
                    if getattr(self.model, name).size:
                        batch.expand(name)[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE.value
            self._batches[key] = batch
        return self._batches[key]


def _shape(data: mujoco.MjData, name: str) -> tuple[int, ...]:
    """Shape of a field of one env, matrices as MJX gives them: (n, 3, 3)."""
    shape = np.shape(getattr(data, name))
    return (shape[0], 3, 3) if name.endswith("xmat") or name == "ximat" else shape


def _model_shape(model: mujoco.MjModel, name: str) -> tuple[int, ...]:
    owner = model.opt if name.startswith("opt.") else model
    return np.shape(getattr(owner, name.removeprefix("opt.")))
