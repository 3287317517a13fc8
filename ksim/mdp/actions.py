"""Action terms: from the policy's numbers to the targets of the actuators.

An action term is a function of the scene that returns a `JointAction`: which joints it drives, how, and the map
from action to control. The actuator itself (PD gains, torque limit) is MuJoCo's, from the robot's table.
"""

import dataclasses

import numpy as np

from ksim.envs.joint_action import JointAction
from ksim.envs.scene import Scene
from ksim.envs.traits import term
from ksim.mdp.gait import SteppingAction, lifts
from ksim.mdp.quantities import Length, metres, per_joint
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
def stepping_joint_position(
    scene: Scene,
    *,
    clock: str,
    sensor: str,
    height: Length,
    joints: Joints = ".*",
    scale: Scale = 0.5,
    scale_by_strength: bool = False,
    stance: float = 0.5,
    offsets: tuple[float, ...] | None = None,
) -> JointAction:
    """`joint_position` about a robot that steps in place: targets of a zero action lift each foot when a gait's clock
    says so, and stay home while the clock is stopped. What a policy adds keeps the balance and goes somewhere.

    Args:
        scene: the task's scene.
        clock: name of a command `gait_clock`.
        sensor: name of a contact sensor, an element for each foot; how joints lift it is found when the task is built.
        height: of a foot in the middle of its swing, m.
        joints, scale, scale_by_strength: as for `joint_position`.
        stance: share of the gait's period in which a foot is on the ground.
        offsets: by how much each foot is ahead of the clock, in periods; None: evenly spread.
    """
    plain = joint_position(scene, joints=joints, scale=scale, scale_by_strength=scale_by_strength)
    lift_a = lifts(scene, sensor, plain.joints_a, metres(scene, height)).T
    fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    return SteppingAction(**fields, lift_a=lift_a, clock=clock, stance=stance, offsets=offsets)


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
