"""MuJoCo XLA (`mujoco.mjx`, `impl="jax"`): the engine for GPUs and TPUs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Bool, Float

from ksim import runtime
from ksim.errors import ConfigError
from ksim.physics.base import PhysicsState, float_dtype

if TYPE_CHECKING:
    from mujoco import mjx
    from mujoco.mjx import Data, Model
else:
    mjx = runtime.import_mjx_quietly()
    Data, Model = mjx.Data, mjx.Model


class MjxPhysics:
    """The `mjx` engine.

    Args:
        model: the compiled model.
        fields: names of the derived mjData fields to return.
        unroll: substeps unrolled in the scan; more is faster to run and slower to compile.
    """

    def __init__(self, model: mujoco.MjModel, fields: Sequence[str], unroll: int = 1):
        runtime.avoid_cpu_hang()
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

            def substep(data: Data, ctrl_u: Array) -> tuple[Data, None]:
                return _step(model, data.replace(ctrl=ctrl_u)), None

            data, _ = jax.lax.scan(substep, self._data(state), ctrl_Su, unroll=self.unroll)
            # mjx.step leaves position and velocity fields one substep behind the state.
            return self._slim(_position_and_velocity(model, data))

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
            data = mjx.forward(self._model(fields), self._data(state).replace(ctrl=ctrl_u))
            return self._slim(data).fields

        def recompute(fields_E: dict[str, Array]) -> dict[str, Array]:
            new_E = jax.vmap(forward_one)(state, dict(model_fields), ctrl_Eu)
            return {
                name: jnp.where(mask_E.reshape(-1, *([1] * (old.ndim - 1))), new_E[name], old)
                for name, old in fields_E.items()
            }

        if not self.fields:
            return state
        with jax.default_matmul_precision("highest"):
            fields = jax.lax.cond(mask_E.any(), recompute, lambda fields_E: fields_E, state.fields)
        return PhysicsState(state.qpos, state.qvel, state.act, state.qacc_warmstart, fields)

    def has_model_field(self, name: str) -> bool:
        """See `Physics.has_model_field`."""
        return isinstance(getattr(self.mjx_model, name, None), jax.Array)

    def _model(self, fields: Mapping[str, Array]) -> Model:
        option = {name.removeprefix("opt."): value for name, value in fields.items() if name.startswith("opt.")}
        model = self.mjx_model.replace(opt=self.mjx_model.opt.replace(**option)) if option else self.mjx_model
        return model.replace(**{name: value for name, value in fields.items() if not name.startswith("opt.")})

    def _data(self, state: PhysicsState) -> Data:
        return self._data_L_0.replace(
            qpos=state.qpos, qvel=state.qvel, act=state.act, qacc_warmstart=state.qacc_warmstart
        )

    def _slim(self, data: Data) -> PhysicsState:
        dtype = float_dtype()
        fields = {name: jnp.asarray(getattr(data, name), dtype) for name in self.fields}
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


def _strong_type(x: Array) -> Array:
    return jax.lax.convert_element_type(x, x.dtype) if isinstance(x, jax.Array) else x
