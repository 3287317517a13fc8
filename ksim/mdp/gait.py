"""What terms of gaits are made of: when each foot is due to swing, by the clock that `commands.gait_clock` gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from ksim.envs.context import Context
from ksim.envs.joint_action import JointAction
from ksim.envs.scene import Scene
from ksim.errors import ConfigError
from ksim.mdp.quantities import geoms_of_each


def swing_share(
    ctx: Context, clock: str, num_feet: int, *, stance: float, offsets: Sequence[float] | None
) -> Float[Array, " n"]:
    """How high each foot is due to be, from 0, on the ground, to 1, in the middle of its swing; 0 for all of them while
    the clock is stopped.

    An arc of a sine above the level that leaves a foot on the ground for `stance` of the period: (s - c) / (1 - c)
    where s = sin(2 pi (phase + offset)) is above c = sin(pi (stance - 1 / 2)).

    Args:
        ctx: the env.
        clock: name of a command `gait_clock`.
        num_feet: n.
        stance: share of the period in which a foot is on the ground.
        offsets: by how much each foot is ahead of the clock, in periods; None: evenly spread.

    Raises:
        ConfigError: as many offsets as feet are needed; a share is none.
    """
    if offsets is not None and len(offsets) != num_feet:
        raise ConfigError(f"offsets: has {len(offsets)} elements for {num_feet} feet")
    if not 0.0 < stance < 1.0:
        raise ConfigError(f"stance: must be a share of the period between 0 and 1, not {stance}")
    offset_n = np.arange(num_feet) / num_feet if offsets is None else np.asarray(offsets)
    cos, sin = ctx.command(clock)
    sin_n = sin * np.cos(2.0 * np.pi * offset_n) + cos * np.sin(2.0 * np.pi * offset_n)
    level = np.sin(np.pi * (stance - 0.5))
    # A stopped clock shows (0, 0): below any level but a negative one.
    runs = jnp.square(cos) + jnp.square(sin) > 0.5
    return jnp.where(runs, jnp.maximum(sin_n - level, 0.0) / (1.0 - level), 0.0)


@dataclass(frozen=True, kw_only=True)
class SteppingAction(JointAction):
    """Joint positions that already step in place: the action bends what it needs to from there.

    Attributes:
        lift_a: (a, n) change of each joint that lifts each foot to the middle of its swing, rad.
        clock: name of the command `gait_clock`.
        stance, offsets: as for `swing_share`.
    """

    lift_a: np.ndarray
    clock: str
    stance: float
    offsets: tuple[float, ...] | None

    @property
    def law(self) -> str:
        """See `JointAction.law`."""
        return super().law.replace("scale * action", "scale * action + lift @ swing_share")

    def ahead(self, ctx: Context) -> Float[Array, " a"]:
        """The joints' changes at this time of the gait."""
        num_feet = self.lift_a.shape[1]
        return jnp.asarray(self.lift_a) @ swing_share(
            ctx, self.clock, num_feet, stance=self.stance, offsets=self.offsets
        )


def lifts(scene: Scene, sensor: str, joints: np.ndarray, height: float) -> Float[np.ndarray, "n a"]:
    """How joints have to move from the home pose to lift each foot straight up, and as level as they can, by inverse
    kinematics: damped Gauss-Newton steps, within the joints' ranges.

    Args:
        scene: the task's scene.
        sensor: name of a contact sensor, an element for each of n feet; the middle of its geoms is what is lifted.
        joints: (a,) indices of joints; of these, those that carry the foot.
        height: m.

    Raises:
        ConfigError: the joints cannot lift a foot by half of the height.
    """
    model, data = scene.model, mujoco.MjData(scene.model)
    dofs, adr = scene.joint_dof_adr[joints], scene.joint_qpos_adr[joints]
    limited = model.jnt_limited[scene.joint_ids[joints]].astype(bool)
    lower, upper = np.where(limited, model.jnt_range[scene.joint_ids[joints]].T, [[-np.inf], [np.inf]])
    elements = geoms_of_each(scene, sensor)
    found = np.zeros((len(elements), len(joints)))
    jacobian, error, turn, inverse = np.zeros((6, model.nv)), np.zeros(6), np.zeros(4), np.zeros(4)
    for i, geoms in enumerate(elements):
        body = model.geom_bodyid[geoms[0]]
        data.qpos = scene.home_qpos
        mujoco.mj_kinematics(model, data)
        start, level = data.geom_xpos[geoms].mean(axis=0), data.xquat[body].copy()
        for _ in range(50):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            point = data.geom_xpos[geoms].mean(axis=0)
            mujoco.mj_jac(model, data, jacobian[:3], jacobian[3:], point, body)
            error[:3] = start + [0.0, 0.0, height] - point
            mujoco.mju_negQuat(inverse, data.xquat[body])
            mujoco.mju_mulQuat(turn, level, inverse)
            mujoco.mju_quat2Vel(error[3:], turn, 1.0)
            step = _solve(jacobian[:, dofs] * _WEIGHT[:, None], error * _WEIGHT)
            data.qpos[adr] = np.clip(data.qpos[adr] + step, lower, upper)
        if point[2] - start[2] < height / 2:
            raise ConfigError(f"joints: cannot lift {model.body(body).name!r} by {height:g} m from the home pose")
        found[i] = data.qpos[adr] - scene.home_qpos[adr]
    return found


_WEIGHT = np.array([1.0, 1.0, 1.0, 0.03, 0.03, 0.03])  # of a metre and of a radian: up first, then level
_DAMPING = 0.005


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Damped least squares."""
    normal = matrix.T @ matrix + _DAMPING**2 * np.eye(matrix.shape[1])
    return np.linalg.solve(normal, matrix.T @ vector)
