"""What the environment asks of a physics engine.

An engine is a pair of pure functions over a flat env axis, callable inside `jit` and `scan`. The state that
crosses between calls is slim: the integration state and the few derived fields that terms read.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

# Fields of mjData that the carry holds in any case; terms read them without declaring anything.
STATE_FIELDS = ("qpos", "qvel", "act", "qacc_warmstart")

# Derived fields that every engine computes, in every step, of the same shape. Others are left out: MuJoCo computes
# `subtree_linvel`, `cacc` or `cfrc_ext` only for sensors that need them, MJX keeps `actuator_velocity` to itself,
# and contacts and constraints change their number.
POSITION_AND_VELOCITY_FIELDS = frozenset(
    "xpos xquat xmat xipos ximat xanchor xaxis geom_xpos geom_xmat site_xpos site_xmat cam_xpos cam_xmat subtree_com"
    " cdof actuator_length ten_length cvel cdof_dot qfrc_bias qfrc_passive".split()
)
ACCELERATION_FIELDS = frozenset(
    "ctrl actuator_force qfrc_actuator qfrc_smooth qfrc_constraint qacc qacc_smooth act_dot".split()
)
DERIVED_FIELDS = POSITION_AND_VELOCITY_FIELDS | ACCELERATION_FIELDS | {"sensordata"}  # a sensor has its type's stage
# The largest value of each element of `sensordata` over a step's substeps; after `forward`, what `sensordata` is.
PEAK_FIELD = "sensordata_max"

# Inputs of a step besides the controls, which `model_fields` may hold, too; zero where it does not.
APPLIED_FORCES = ("xfrc_applied", "qfrc_applied")

# Fields of mjModel from which MuJoCo computes others when it compiles a model. Where the first differ between envs,
# those others must, too: `Physics.constants`. Left out are those that nothing but drawing reads (`light_poscom0`).
INERTIAL_FIELDS = ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_armature", "tendon_armature")
_IMPLIED_FIELDS = (
    "body_subtreemass",
    "dof_M0",
    "dof_invweight0",
    "body_invweight0",
    "tendon_invweight0",
    "actuator_acc0",
    "cam_poscom0",
)


class PhysicsState(eqx.Module):
    """The state of E envs (or of one, inside `vmap`).

    Attributes:
        qpos: (E, nq) positions, m and quaternion (wxyz) for the floating base, rad or m for joints.
        qvel: (E, nv) velocities; a free joint's linear part is in the world frame, its angular part in the body's.
        act: (E, na) actuator activations.
        qacc_warmstart: (E, nv) the constraint solver's start.
        fields: derived fields of mjData by MuJoCo's name, each (E, ...), only those that terms read.
    """

    qpos: Float[Array, "E nq"]
    qvel: Float[Array, "E nv"]
    act: Float[Array, "E na"]
    qacc_warmstart: Float[Array, "E nv"]
    fields: dict[str, Array]


class Physics(Protocol):
    """An engine, built for one model and one set of derived fields: `engine(model, fields, threads)`."""

    model: mujoco.MjModel
    fields: tuple[str, ...]

    def step(
        self, state: PhysicsState, model_fields: Mapping[str, Array], ctrl_ESu: Float[Array, "E S nu"]
    ) -> PhysicsState:
        """Advance E envs by S substeps, substep s with the controls `ctrl_ESu[:, s]`.

        Position and velocity fields of the result belong to the new state, acceleration-stage fields
        (`ACCELERATION_FIELDS`; force, touch, contact and acceleration sensors) to the last substep. An env in which
        the engine failed comes back with NaN in `qpos`.

        Args:
            state: the envs.
            model_fields: values per env of mjModel fields and of `APPLIED_FORCES`, by name, each (E, ...); other
                fields are the model's, other forces zero.
            ctrl_ESu: controls of each substep, in the units of the actuators.
        """
        ...

    def has_model_field(self, name: str) -> bool:
        """Whether `model_fields` may hold this field of mjModel."""
        ...

    def implied_fields(self, names: Collection[str]) -> tuple[str, ...]:
        """The fields of mjModel that must differ between envs, too, where these do."""
        ...

    def constants(self, model_fields: Mapping[str, Array], mask_E: Bool[Array, " E"]) -> dict[str, Array]:
        """What `mj_setConst` makes of the inertial fields: the implied fields, in the envs of `mask_E`.

        Args:
            model_fields: inertial fields and the implied ones, as they are in the other envs, each (E, ...).
            mask_E: the envs whose inertial fields have changed.
        """
        ...

    def forward(
        self,
        state: PhysicsState,
        model_fields: Mapping[str, Array],
        ctrl_Eu: Float[Array, "E nu"],
        mask_E: Bool[Array, " E"],
    ) -> PhysicsState:
        """Recompute every derived field by a full forward pass, as `mj_forward`, in the envs of `mask_E` only."""
        ...


def implied_by_inertia(model: mujoco.MjModel, names: Collection[str]) -> tuple[str, ...]:
    """The fields of a model that must differ between envs, too, where these do: of what there is in it."""
    if not set(names) & set(INERTIAL_FIELDS):
        return ()
    follows = np.any(model.cam_mode == mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM)  # others are where their bodies are
    names = [name for name in _IMPLIED_FIELDS if getattr(model, name).size]
    return tuple(name for name in names if follows or name != "cam_poscom0")


def float_dtype() -> np.dtype:
    """The float type of the carry: float32, or float64 where JAX runs with 64 bits."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))


def initial_state(model: mujoco.MjModel, fields: tuple[str, ...], num_envs: int) -> PhysicsState:
    """The model's `qpos0` at rest in `num_envs` envs, derived fields zero until the first `forward`."""
    data = mujoco.MjData(model)
    dtype = float_dtype()

    def tile(value: np.ndarray) -> Array:
        return jnp.broadcast_to(jnp.asarray(value, dtype), (num_envs, *value.shape))

    zeros = {name: jnp.zeros((num_envs, *field_shape(data, name)), dtype) for name in fields}
    return PhysicsState(tile(model.qpos0), tile(data.qvel), tile(data.act), tile(data.qvel), zeros)


def field_shape(data: mujoco.MjData, name: str) -> tuple[int, ...]:
    """Shape of a derived field of one env, matrices as MJX gives them: (n, 3, 3).

    Raises:
        AttributeError: the engines do not compute it.
    """
    if name == PEAK_FIELD:
        name = "sensordata"
    if name not in DERIVED_FIELDS:
        raise AttributeError(
            f"{name!r} is not among the fields of mjData that engines compute: {sorted(DERIVED_FIELDS)}"
        )
    value = getattr(data, name)
    return (value.shape[0], 3, 3) if name.endswith("xmat") or name == "ximat" else value.shape
