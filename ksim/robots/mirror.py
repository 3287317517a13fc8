"""The mirror map of a robot's joints, from its table, and whether the robot is what the map says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from ksim.config.words import hint
from ksim.errors import ConfigError
from ksim.robots.robot import Mirror

_APART = 0.02  # of the robot's size: a robot's two sides are not exact images of each other
_TURNED_RAD = 0.1
_HOME_APART = 1e-3  # rad or m


def mirror_map(mirror: Mapping[str, tuple[str, int]], joint_names: Sequence[str], where: str) -> Mirror:
    r"""The map of the actuated joints; a pair need be given in one direction only.

    Args:
        mirror: regex of joints -> the joint whose angle each takes, where `\1` is the regex's first group, and the
            sign.
        joint_names: the actuated joints, in the order of the controls.
        where: the file, for messages.

    Raises:
        ConfigError: a name that is no actuated joint, a joint with two partners, or one with none.
    """
    partners: dict[str, tuple[str, int]] = {}
    for pattern, (partner, sign) in mirror.items():
        place = f"{where}: mirror.{pattern}"
        for name, other in _pairs(pattern, partner, joint_names, place):
            # The way back has the same sign, so that mirroring twice gives the pose itself.
            for a, b in ((name, other), (other, name)):
                if partners.get(a, (b, sign)) != (b, sign):
                    raise ConfigError(f"{place}: joint '{a}' has two mirrored joints")
                partners[a] = (b, sign)
    if missing := [name for name in joint_names if name not in partners]:
        raise ConfigError(f"{where}: mirror: no mirrored joint for {', '.join(missing)}")
    pairs = [partners[name] for name in joint_names]
    return Mirror(
        joint_index_u=np.array([list(joint_names).index(other) for other, _ in pairs]),
        joint_sign_u=np.array([float(sign) for _, sign in pairs]),
    )


def _pairs(pattern: str, partner: str, joint_names: Sequence[str], place: str) -> list[tuple[str, str]]:
    """The joints that a regex means, and what their partners are called."""
    try:
        found = [match for name in joint_names if (match := re.fullmatch(pattern, name))]
        pairs = [(match[0], match.expand(partner)) for match in found]
    except re.error as error:
        raise ConfigError(f"{place}: {partner!r} is no partner of this regular expression: {error}") from None
    if not pairs:
        raise ConfigError(f"{place}: no actuated joint '{pattern}'{hint(pattern, joint_names)}")
    for _, other in pairs:
        if other not in joint_names:
            raise ConfigError(f"{place}: no actuated joint '{other}'{hint(other, joint_names)}")
    return pairs


def check(
    mirror: Mirror,
    model: mujoco.MjModel,
    joint_names: Sequence[str],
    home_qpos: np.ndarray,
    base: str,
    is_floating_base: bool,
    where: str,
) -> None:
    """Refuse a map that is not the robot's: in the home pose, the joints that it pairs are images of each other.

    A floating base faces along its x axis: the images are those in its x-z plane. One that is fixed need not: any plane
    does whose normal is an axis of the base, or leads from a joint to its image.

    Args:
        mirror: the map.
        model: the robot's.
        joint_names: the actuated joints, in the order of the controls.
        home_qpos: (nq,) the home pose.
        base: the base's body.
        is_floating_base: whether it moves freely.
        where: the file, for messages.

    Raises:
        ConfigError: naming the pair, and how far off it is.
    """
    data = mujoco.MjData(model)
    data.qpos[:] = home_qpos
    mujoco.mj_kinematics(model, data)
    ids = [model.joint(name).id for name in joint_names]
    rotation = data.body(base).xmat.reshape(3, 3)
    anchor_u3 = (data.xanchor[ids] - data.body(base).xpos) @ rotation
    axis_u3 = data.xaxis[ids] @ rotation
    is_slide_u = model.jnt_type[ids] == mujoco.mjtJoint.mjJNT_SLIDE
    pose = _Pose(joint_names, home_qpos[model.jnt_qposadr[ids]], anchor_u3, axis_u3, is_slide_u)
    normals = [np.array([0.0, 1.0, 0.0])]
    if not is_floating_base:
        anchor_u3 -= anchor_u3.mean(axis=0)  # a point of the plane, which need not go through the base
        apart_u3 = anchor_u3 - anchor_u3[mirror.joint_index_u]
        normals += [*np.eye(3)[[0, 2]], *(x / np.linalg.norm(x) for x in apart_u3 if np.any(x))]
    faults = [_fault(mirror, pose, normal) for normal in normals]
    if all(faults):
        raise ConfigError(f"{where}: mirror.{faults[0]}")


@dataclass(frozen=True)
class _Pose:
    """The actuated joints in the home pose, in the base's frame."""

    names: Sequence[str]
    home_u: np.ndarray
    anchor_u3: np.ndarray
    axis_u3: np.ndarray
    is_slide_u: np.ndarray


def _fault(mirror: Mirror, pose: _Pose, normal: np.ndarray) -> str:
    """The first pair that are no images of each other in the plane of this normal, and why; empty where all are."""
    reflection = np.eye(3) - 2.0 * np.outer(normal, normal)
    size = float(np.linalg.norm(np.ptp(pose.anchor_u3, axis=0)))
    # The axis that a joint turns about is an axial vector, the one that it slides along a polar one.
    image_u3 = pose.axis_u3 @ reflection * np.where(pose.is_slide_u[:, None], 1.0, -1.0)
    for u, (other, sign) in enumerate(zip(mirror.joint_index_u, mirror.joint_sign_u, strict=True)):
        a, b = pose.names[u], pose.names[other]
        place = f"{a}: in the home pose, "
        home, home_other = pose.home_u[[u, other]]
        if abs(home - sign * home_other) > _HOME_APART:
            return f"{place}{a} is at {home:g} and {b} at {home_other:g}, no image with sign {sign:g}"
        apart = float(np.linalg.norm(reflection @ pose.anchor_u3[u] - pose.anchor_u3[other]))
        if apart > _APART * size:
            return f"{place}the image of {a} is {apart:.3f} m away from {b}"
        cosine = float(sign * image_u3[u] @ pose.axis_u3[other])
        if cosine < -np.cos(_TURNED_RAD):
            return f"{place}{a} and {b} turn the other way: the sign is {-sign:g}"
        if cosine < np.cos(_TURNED_RAD):
            return f"{place}the axis of {b} is {np.arccos(cosine):.2f} rad away from the image of {a}'s"
    return ""
