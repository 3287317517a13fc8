"""MuJoCo XLA (`mujoco.mjx`, `impl="jax"`): the engine for GPUs and TPUs."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from ksim.errors import ConfigError
from ksim.physics.base import (
    APPLIED_FORCES,
    INERTIAL_FIELDS,
    PEAK_FIELD,
    PhysicsState,
    float_dtype,
    implied_by_inertia,
)
from ksim.physics.chunks import where_masked
from ksim.system import jax_setup

if TYPE_CHECKING:
    from mujoco import mjx
    from mujoco.mjx import Data, Model
else:
    mjx = jax_setup.import_mjx_quietly()
    Data, Model = mjx.Data, mjx.Model


class MjxPhysics:
    """The `mjx` engine.

    Args:
        model: the compiled model.
        fields: names of the derived mjData fields to return.
        unroll: substeps unrolled in the scan; more is faster to run and slower to compile.
    """

    def __init__(self, model: mujoco.MjModel, fields: Sequence[str], unroll: int = 1):
        jax_setup.avoid_cpu_hang()
        self.model = model
        self.fields = tuple(fields)
        self.unroll = unroll
        try:
            self.mjx_model = mjx.put_model(model, impl="jax")
        except NotImplementedError as error:
            raise ConfigError(f"physics=mjx: MJX has no {error}; physics=mujoco has") from None
        # The template carries everything that is not in the slim state; weak types would compile the step twice.
        self._data_L_0 = jax.tree.map(_strong_type, mjx.make_data(model, impl="jax"))

    def step(
        self, state: PhysicsState, model_fields: Mapping[str, Array], ctrl_ESu: Float[Array, "E S nu"]
    ) -> PhysicsState:
        """See `Physics.step`."""

        def step_one(state: PhysicsState, fields: dict[str, Array], ctrl_Su: Array) -> PhysicsState:
            model = self._model(fields)

            def substep(data: Data, ctrl_u: Array) -> tuple[Data, Array | None]:
                data = _step(model, data.replace(ctrl=ctrl_u))
                return data, data.sensordata if PEAK_FIELD in self.fields else None

            data, sensordata_S = jax.lax.scan(substep, self._data(state, fields), ctrl_Su, unroll=self.unroll)
            # mjx.step leaves position and velocity fields one substep behind the state.
            after = self._slim(_position_and_velocity(model, data))
            if sensordata_S is not None:
                after.fields[PEAK_FIELD] = jnp.max(sensordata_S, axis=0).astype(float_dtype())
            return after

        with jax.default_matmul_precision("highest"):  # TF32 breaks the physics
            return jax.vmap(step_one)(state, dict(model_fields), ctrl_ESu)

    def forward(
        self,
        state: PhysicsState,
        model_fields: Mapping[str, Array],
        ctrl_Eu: Float[Array, "E nu"],
        mask_E: Bool[Array, " E"],
    ) -> PhysicsState:
        """See `Physics.forward`."""

        def forward_one(state: PhysicsState, fields: dict[str, Array], ctrl_u: Array) -> dict[str, Array]:
            data = mjx.forward(self._model(fields), self._data(state, fields).replace(ctrl=ctrl_u))
            return self._slim(data).fields

        if not self.fields:
            return state
        slim = PhysicsState(state.qpos, state.qvel, state.act, state.qacc_warmstart, {})  # what a pass starts from
        with jax.default_matmul_precision("highest"):
            fields = where_masked(forward_one, (slim, dict(model_fields), ctrl_Eu), mask_E, state.fields)
        return PhysicsState(state.qpos, state.qvel, state.act, state.qacc_warmstart, fields)

    def has_model_field(self, name: str) -> bool:
        """See `Physics.has_model_field`."""
        owner = self.mjx_model.opt if name.startswith("opt.") else self.mjx_model
        return isinstance(getattr(owner, name.removeprefix("opt."), None), jax.Array)

    def implied_fields(self, names: Collection[str]) -> tuple[str, ...]:
        """See `Physics.implied_fields`."""
        return implied_by_inertia(self.model, names)

    def constants(self, model_fields: Mapping[str, Array], mask_E: Bool[Array, " E"]) -> dict[str, Array]:
        """See `Physics.constants`."""
        given = {name: value for name, value in model_fields.items() if name in INERTIAL_FIELDS}
        old = {name: model_fields[name] for name in self.implied_fields(given)}
        slides_b = self.model.body_simple == 2

        def of_one(fields: dict[str, Array]) -> dict[str, Array]:
            new = set_const(self._model(fields), self._data_L_0, slides_b)
            return {name: new[name] for name in old}

        with jax.default_matmul_precision("highest"):
            return where_masked(of_one, (given,), mask_E, old)

    def _model(self, fields: Mapping[str, Array]) -> Model:
        option = {name.removeprefix("opt."): value for name, value in fields.items() if name.startswith("opt.")}
        model = self.mjx_model.replace(opt=self.mjx_model.opt.replace(**option)) if option else self.mjx_model
        own = {n: value for n, value in fields.items() if not n.startswith("opt.") and n not in APPLIED_FORCES}
        return model.replace(**own)

    def _data(self, state: PhysicsState, fields: Mapping[str, Array]) -> Data:
        forces = {name: value for name, value in fields.items() if name in APPLIED_FORCES}
        return self._data_L_0.replace(
            qpos=state.qpos, qvel=state.qvel, act=state.act, qacc_warmstart=state.qacc_warmstart, **forces
        )

    def _slim(self, data: Data) -> PhysicsState:
        dtype = float_dtype()
        fields = {name: jnp.asarray(getattr(data, _source(name)), dtype) for name in self.fields}
        return PhysicsState(data.qpos, data.qvel, data.act, data.qacc_warmstart, fields)


def _step(model: Model, data: Data) -> Data:
    """`mjx.step`, as C MuJoCo takes it.

    `implicitfast` treats the velocity feedback of actuators implicitly. C MuJoCo (and MuJoCo Warp) leaves out an
    actuator that is at its force limit, whose force no longer answers to velocity; MJX 3.17 does not, and a saturated
    ankle of K-Bot would be slower by 1 rad/s after 5 ms.
    """
    if model.opt.integrator != mjx.IntegratorType.IMPLICITFAST:
        return mjx.step(model, data)
    data = mjx.forward(model, data)
    lower, upper = model.actuator_forcerange.T
    is_free = ~model.actuator_forcelimited | ((data.actuator_force > lower) & (data.actuator_force < upper))
    velocity_gains = {
        "actuator_biasprm": model.actuator_biasprm.at[:, 2].multiply(is_free),
        "actuator_gainprm": model.actuator_gainprm.at[:, 2].multiply(is_free),
    }
    return mjx.implicit(model.replace(**velocity_gains), data)


def set_const(model: Model, data: Data, slides_b: np.ndarray) -> dict[str, Array]:
    """The implied fields of one model, as `mj_setConst` computes them at `qpos0` from the mass matrix M and Jacobians.

    `dof_M0` is M's diagonal without the tendons' armature; `dof_invweight0` the diagonal of inv(M), averaged over the
    axes of a ball or a free joint's translation or rotation; `body_invweight0` that of J inv(M) J', J the Jacobian of
    the body's centre of mass; `tendon_invweight0` the same with a tendon's Jacobian; `actuator_acc0` the length of
    inv(M) times the actuator's moment; `cam_poscom0` where a camera is from the centre of mass of its body's subtree,
    or of its target's. Of bodies that only slide (`slides_b`), MuJoCo takes the inverse mass in place of the average.
    """
    data = mjx.kinematics(model, data.replace(qpos=model.qpos0))
    data = mjx.crb(model, mjx.com_pos(model, data))
    without_tendons = jnp.diagonal(mjx.full_m(model, data))
    data = mjx.tendon_armature(model, mjx.tendon(model, mjx.camlight(model, data)))
    data = mjx.transmission(model, data)
    mass = mjx.full_m(model, data)
    inverse = jnp.linalg.inv(mass)
    diagonal = jnp.diagonal(inverse)

    def mean_diagonal(jacobian_v3: Array) -> Array:
        return jnp.einsum("vi,vw,wi->", jacobian_v3, inverse, jacobian_v3) / 3.0

    def of_body(body: Array) -> Array:
        return jnp.stack([mean_diagonal(j) for j in mjx.jac(model, data, data.xipos[body], body)])

    body_invweight0 = jax.vmap(of_body)(jnp.arange(model.nbody))
    sliding = jnp.stack([1.0 / model.body_mass, jnp.zeros(model.nbody)], axis=1)
    body_invweight0 = jnp.where(slides_b[:, None], sliding, body_invweight0)
    moves = np.asarray(model.body_weldid) != 0  # what is welded to the world has no weight
    return {
        "body_subtreemass": _subtree_sums(model, model.body_mass),
        "dof_M0": without_tendons,
        "dof_invweight0": _averaging_over_joints(model) @ diagonal,
        "body_invweight0": jnp.where(moves[:, None], body_invweight0, 0.0),
        "tendon_invweight0": jnp.einsum("tv,vw,tw->t", data._impl.ten_J, inverse, data._impl.ten_J),
        "actuator_acc0": jnp.linalg.norm(data._impl.actuator_moment @ inverse, axis=1),
        "cam_poscom0": _cameras_from_centres_of_mass(model, data),
    }


def _cameras_from_centres_of_mass(model: Model, data: Data) -> Array:
    """(ncam, 3), each camera where it is fixed to its body, whatever it follows, in axes of the world."""
    body = np.asarray(model.cam_bodyid)
    target = np.asarray(model.cam_targetbodyid)
    place = data.xpos[body] + jnp.einsum("cij,cj->ci", data.xmat[body], model.cam_pos)
    return place - data.subtree_com[np.where(target >= 0, target, body)]


def _subtree_sums(model: Model, value_b: Array) -> Array:
    for body in range(model.nbody - 1, 0, -1):
        value_b = value_b.at[model.body_parentid[body]].add(value_b[body])
    return value_b


def _averaging_over_joints(model: Model) -> np.ndarray:
    """(nv, nv) matrix that averages a value per dof over the dofs of one joint of the same kind."""
    matrix = np.eye(model.nv)
    for joint, kind in enumerate(model.jnt_type):
        adr = model.jnt_dofadr[joint]
        starts = {mujoco.mjtJoint.mjJNT_FREE: (adr, adr + 3), mujoco.mjtJoint.mjJNT_BALL: (adr,)}
        for start in starts.get(mujoco.mjtJoint(int(kind)), ()):
            matrix[start : start + 3, start : start + 3] = 1.0 / 3.0
    return matrix


def _position_and_velocity(model: Model, data: Data) -> Data:
    """The position and velocity stages without collision and constraints, which no field of theirs needs.

    XLA removes what belongs to fields that are not read.
    """
    data = mjx.kinematics(model, data)
    data = mjx.com_pos(model, data)
    data = mjx.camlight(model, data)
    data = mjx.tendon(model, data)
    data = mjx.transmission(model, data)
    data = mjx.sensor_pos(model, data)
    data = mjx.fwd_velocity(model, data)
    return mjx.sensor_vel(model, data)


def _source(name: str) -> str:
    return "sensordata" if name == PEAK_FIELD else name


def _strong_type(x: Array) -> Array:
    return jax.lax.convert_element_type(x, x.dtype) if isinstance(x, jax.Array) else x
