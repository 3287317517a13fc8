"""C MuJoCo stepped by a thread pool (`mujoco.batch.Batch`), called from inside the jitted program.

The callback depends on its arguments alone: each call writes the whole integration state and every per-env
model field before it runs, so two trainings may share an engine, and a resume is exact. Inside the callback
only NumPy is used: a JAX operation there can deadlock (jax issue 24255).
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from ksim.physics.base import (
    APPLIED_FORCES,
    INERTIAL_FIELDS,
    PEAK_FIELD,
    STATE_FIELDS,
    PhysicsState,
    field_shape,
    implied_by_inertia,
)
from ksim.system import cpus

log = logging.getLogger(__name__)

_INERTIA_FRAME_FIELDS = {"body_ipos", "body_iquat"}
# Where one of these differs between envs, MuJoCo must not take the shortcuts that it takes where the frames of a body,
# its inertia, geoms and sites were compiled equal.
MOVABLE_FIELDS = _INERTIA_FRAME_FIELDS | {"geom_pos", "geom_quat", "site_pos", "site_quat"}
SAME_FRAME_FIELDS = ("body_sameframe", "geom_sameframe", "site_sameframe")
_Ids: TypeAlias = np.ndarray | slice
_ALL = slice(None)
_STAGE_VEL = mujoco.mjtStage.mjSTAGE_VEL.value
_STAGE_NONE = mujoco.mjtStage.mjSTAGE_NONE.value
_STAGE_ACC = mujoco.mjtStage.mjSTAGE_ACC.value


class BatchPhysics:
    """The `mujoco` engine.

    Args:
        model: the compiled model.
        fields: names of the derived mjData fields to return.
        threads: size of the thread pool; None for one per CPU that this process may use.
    """

    def __init__(self, model: mujoco.MjModel, fields: Sequence[str], threads: int | None = None):
        self.model = model
        self.fields = tuple(fields)
        self.threads = threads or cpus.available()
        data = mujoco.MjData(model)
        self._shapes = {name: field_shape(data, name) for name in self.fields}
        self._default_row = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, self._default_row, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._batches: dict[tuple[int, tuple[str, ...]], Batch] = {}
        self._lock = threading.Lock()  # a Batch must not be used from several threads at once
        if mujoco.get_mju_user_warning() is None:
            # Of its own, MuJoCo prints about each diverged env and writes MUJOCO_LOG.TXT into the working directory.
            mujoco.set_mju_user_warning(log.debug)

    def step(
        self, state: PhysicsState, model_fields: Mapping[str, Array], ctrl_ESu: Float[Array, "E S nu"]
    ) -> PhysicsState:
        """See `Physics.step`."""
        return self._call(self._host_step, state, dict(model_fields), ctrl_ESu)

    def forward(
        self,
        state: PhysicsState,
        model_fields: Mapping[str, Array],
        ctrl_Eu: Float[Array, "E nu"],
        mask_E: Bool[Array, " E"],
    ) -> PhysicsState:
        """See `Physics.forward`."""

        def recompute() -> PhysicsState:
            return self._call(self._host_forward, state, dict(model_fields), ctrl_Eu, mask_E)

        return jax.lax.cond(mask_E.any(), recompute, lambda: state)

    def has_model_field(self, name: str) -> bool:
        """See `Physics.has_model_field`."""
        return name in MODEL_FIELDS

    def implied_fields(self, names: Collection[str]) -> tuple[str, ...]:
        """See `Physics.implied_fields`."""
        implied = implied_by_inertia(self.model, names)
        if not set(names) & _INERTIA_FRAME_FIELDS:
            return implied
        # Bounding volumes, with which collisions begin, lie in the frames of the bodies' inertia.
        return (*implied, "dof_length", "bvh_aabb") if self.model.nbvh else (*implied, "dof_length")

    def constants(self, model_fields: Mapping[str, Array], mask_E: Bool[Array, " E"]) -> dict[str, Array]:
        """See `Physics.constants`."""
        names = self.implied_fields(model_fields)
        given = {name: model_fields[name] for name in (*INERTIAL_FIELDS, *names) if name in model_fields}
        old = {name: given[name] for name in names}
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), old)

        def recompute() -> dict[str, Array]:
            return jax.pure_callback(self._host_constants, shapes, given, mask_E, vmap_method="sequential")

        return jax.lax.cond(mask_E.any(), recompute, lambda: old)

    def _call(self, function: Callable[..., PhysicsState], state: PhysicsState, *args: Any) -> PhysicsState:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        return jax.pure_callback(function, shapes, state, *args, vmap_method="sequential")

    # Host side: NumPy only; a PhysicsState holds NumPy arrays here.

    def _host_step(self, *args: Any) -> PhysicsState:
        state, model_fields, ctrl_ESu = jax.tree.map(np.asarray, args)
        num_envs, num_substeps = ctrl_ESu.shape[:2]
        held = all(np.array_equal(ctrl_ESu[:, 0], ctrl_ESu[:, s]) for s in range(1, num_substeps))
        with self._lock:
            batch = self._load(num_envs, state, model_fields)
            failed = np.zeros(num_envs, bool)
            ctrl = batch.bind("ctrl")
            # Controls that are held over the substeps need one call into the pool, others one each.
            watched = PEAK_FIELD in self.fields
            calls = [(0, num_substeps)] if held and not watched else [(s, 1) for s in range(num_substeps)]
            peak = np.full_like(batch.bind("sensordata"), -np.inf) if watched else None
            for s, count in calls:
                ctrl[:] = ctrl_ESu[:, s]
                last = s + count == num_substeps
                failed |= _run(batch.step, num_envs, None, nstep=count, stage=_STAGE_VEL if last else _STAGE_NONE)
                if peak is not None:
                    np.maximum(peak, batch.bind("sensordata"), out=peak)
            after = self._read(batch, failed, state.qpos.dtype)
            if peak is not None:
                after.fields[PEAK_FIELD] = peak.astype(state.qpos.dtype)
            return after

    def _host_forward(self, *args: Any) -> PhysicsState:
        state, model_fields, ctrl_Eu, mask_E = jax.tree.map(np.asarray, args)
        ids = np.flatnonzero(mask_E)
        with self._lock:
            batch = self._load(len(mask_E), state, model_fields, ids)
            batch.bind("ctrl")[ids] = ctrl_Eu[ids]
            # The full pass, never a lower stage: a shared mjData would show another env's values.
            failed = _run(batch.forward, len(mask_E), ids, stage=_STAGE_ACC)
            new = self._read_fields(batch, state.qpos.dtype, ids)
        fields: dict[str, Any] = {name: np.array(state.fields[name]) for name in self.fields}
        for name in self.fields:
            fields[name][ids] = new[name]
        qpos: Any = np.array(state.qpos)
        qpos[failed] = np.nan
        return PhysicsState(qpos, state.qvel, state.act, state.qacc_warmstart, fields)

    def _host_constants(self, *args: Any) -> dict[str, Any]:
        given, mask_E = jax.tree.map(np.asarray, args)
        names = self.implied_fields(given)
        new = {name: np.array(given[name]) for name in names}
        inertial = [name for name in given if name in INERTIAL_FIELDS]
        ids = np.flatnonzero(mask_E)
        with self._lock:
            # A batch of its own: set_const leaves values per env in fields that a step must not see.
            key = (len(mask_E), ("set_const", *sorted(inertial)))
            if key not in self._batches:
                self._batches[key] = Batch(self.model, nsim=len(mask_E), nthread=self.threads)
            batch = self._batches[key]
            for name in inertial:
                batch.expand(name)[ids] = given[name][ids]
            failed = _run(batch.set_const, len(mask_E), ids)
            for name in names:
                new[name][ids] = batch.expand(name)[ids]
                new[name][failed] = np.nan
        return new

    def _batch(self, num_envs: int, model_fields: Sequence[str]) -> Batch:
        """The pool for this number of envs: `nsim` and the expanded fields are fixed when it is built."""
        key = (num_envs, tuple(sorted(model_fields)))
        if key not in self._batches:
            batch = Batch(self.model, nsim=num_envs, nthread=self.threads)
            for name in self.fields:
                batch.bind(_source(name))
            for name in model_fields:
                (batch.bind if name in APPLIED_FORCES else batch.expand)(name)
            if MOVABLE_FIELDS.intersection(model_fields):
                for name in SAME_FRAME_FIELDS:
                    if getattr(self.model, name).size:
                        batch.expand(name)[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE.value
            self._batches[key] = batch
        return self._batches[key]

    def _load(
        self, num_envs: int, state: PhysicsState, model_fields: Mapping[str, np.ndarray], ids: _Ids = _ALL
    ) -> Batch:
        """The pool with everything that the next call on the envs of `ids` depends on."""
        batch = self._batch(num_envs, tuple(model_fields))
        batch.state[ids] = self._default_row
        for name in STATE_FIELDS:
            batch.bind(name)[ids] = np.asarray(getattr(state, name))[ids]
        for name, value in model_fields.items():
            array = batch.bind(name) if name in APPLIED_FORCES else batch.expand(name)
            array[ids] = np.asarray(value).reshape(array.shape)[ids]
        return batch

    def _read(self, batch: Batch, failed: np.ndarray, dtype: np.dtype) -> PhysicsState:
        state: dict[str, Any] = {name: batch.bind(name).astype(dtype) for name in STATE_FIELDS}
        state["qpos"][failed] = np.nan
        return PhysicsState(**state, fields=self._read_fields(batch, dtype))

    def _read_fields(self, batch: Batch, dtype: np.dtype, ids: _Ids = _ALL) -> dict[str, Any]:
        found = {name: batch.bind(_source(name))[ids].astype(dtype) for name in self.fields}
        return {name: value.reshape(len(value), *self._shapes[name]) for name, value in found.items()}


def _source(name: str) -> str:
    return "sensordata" if name == PEAK_FIELD else name


def _run(method: Callable[..., None], num_envs: int, ids: np.ndarray | None, **kwargs: Any) -> np.ndarray:
    """Call a method of the pool; the envs in which MuJoCo raised an error, as a mask."""
    failed = np.zeros(num_envs, bool)
    try:
        method(ids, **kwargs)
    except SimulationError as error:
        failed[error.ids] = True
    return failed
