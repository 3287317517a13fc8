"""Action terms: from the policy's numbers to the targets of the actuators.

An action term is a function of the scene that returns a `JointAction`: which joints it drives, how, and the map
from action to control. The actuator itself (PD gains, torque limit) is MuJoCo's, from the robot's table.
"""

import numpy as np

from ksim.envs.joint_action import JointAction
from ksim.envs.scene import Scene
from ksim.envs.traits import term
from ksim.mdp.quantities import per_joint
from ksim.robots.actuators import Control
from ksim.robots.parts import Joints

Scale = float | dict[str, float]


@term(actuated=True)
def joint_position(
    scene: Scene, *, joints: Joints = ".*", scale: Scale = 0.5, scale_by_strength: bool = False, soft_limit: float = 1.0
) -> JointAction:
    """Position targets around the home pose: home + scale * action, within the joints' ranges.

    Args:
        scene: the task's scene.
        joints: joints, by part or regex.
        scale: rad of target per action unit, one number or one by part or regex.
        scale_by_strength: multiply by torque limit / kp, the offset at which a joint's PD torque saturates, so that
            one action unit asks for `scale` times the full torque of every joint.
        soft_limit: part of each joint's range, about its middle, that targets may use.
    """
    ids = scene.find_joints(joints, actuated=True)
    scale_a = _scale(scene, ids, scale)
    if scale_by_strength:
        scale_a = scale_a * (scene.robot.torque_limit_u / scene.robot.kp_u)[ids]
    middle, half = _range(scene, ids)
    lower, upper = middle - soft_limit * half, middle + soft_limit * half
    return JointAction("position", ids, scale_a, scene.home_joint_pos[ids], lower, upper)


@term(actuated=True)
def relative_joint_position(scene: Scene, *, joints: Joints = ".*", scale: Scale = 0.1) -> JointAction:
    """Position targets relative to the measured positions: joint position + scale * action, within the ranges."""
    ids = scene.find_joints(joints, actuated=True)
    middle, half = _range(scene, ids)
    zeros = np.zeros(len(ids))
    return JointAction("position", ids, _scale(scene, ids, scale), zeros, middle - half, middle + half, True)


@term(actuated=True)
def joint_velocity(scene: Scene, *, joints: Joints = ".*", scale: Scale = 1.0) -> JointAction:
    """Velocity targets: scale * action, rad/s or m/s."""
    return _direct(scene, "velocity", joints, scale, np.full(scene.num_actuated, np.inf))


@term(actuated=True)
def joint_effort(scene: Scene, *, joints: Joints = ".*", scale: Scale = 1.0) -> JointAction:
    """Torques or forces: scale * action, N m or N, within the actuators' limits."""
    return _direct(scene, "effort", joints, scale, scene.robot.torque_limit_u)


def _direct(scene: Scene, control: Control, joints: Joints, scale: Scale, limit_u: np.ndarray) -> JointAction:
    ids = scene.find_joints(joints, actuated=True)
    return JointAction(control, ids, _scale(scene, ids, scale), np.zeros(len(ids)), -limit_u[ids], limit_u[ids])


def _scale(scene: Scene, ids: np.ndarray, scale: Scale) -> np.ndarray:
    """(a,) one factor per joint."""
    return np.broadcast_to(per_joint(scene, ids, scale, "scale", actuated=True), ids.shape).astype(float)


def _range(scene: Scene, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of the joints' ranges; infinitely wide where a joint has no limit."""
    joints = scene.joint_ids[ids]
    lower, upper = scene.model.jnt_range[joints].T
    limited = scene.model.jnt_limited[joints].astype(bool)
    return np.where(limited, (lower + upper) / 2, 0.0), np.where(limited, (upper - lower) / 2, np.inf)
