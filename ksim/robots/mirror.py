"""The mirror map of a robot's joints, from its table, and whether the robot is what the map says."""

import re
from collections.abc import Mapping, Sequence

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
    mirror: Mirror, model: mujoco.MjModel, joint_names: Sequence[str], home_qpos: np.ndarray, base: str, where: str
) -> None:
    """Refuse a map that is not the robot's: in the home pose, the joints that it pairs are images of each other.

    In the base's x-z plane, so of a floating base only: one that is fixed need not face along x.

    Args:
        mirror: the map.
        model: the robot's.
        joint_names: the actuated joints, in the order of the controls.
        home_qpos: (nq,) the home pose.
        base: the base's body.
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
    home_u = home_qpos[model.jnt_qposadr[ids]]
    size = float(np.linalg.norm(np.ptp(anchor_u3, axis=0)))
    is_slide_u = model.jnt_type[ids] == mujoco.mjtJoint.mjJNT_SLIDE
    # The axis that a joint turns about is an axial vector, the one that it slides along a polar one.
    image_u3 = axis_u3 * np.where(is_slide_u[:, None], [1.0, -1.0, 1.0], [-1.0, 1.0, -1.0])
    for u, (other, sign) in enumerate(zip(mirror.joint_index_u, mirror.joint_sign_u, strict=True)):
        a, b = joint_names[u], joint_names[other]
        place = f"{where}: mirror.{a}: in the home pose, "
        if abs(home_u[u] - sign * home_u[other]) > _HOME_APART:
            raise ConfigError(
                f"{place}{a} is at {home_u[u]:g} and {b} at {home_u[other]:g}, no image with sign {sign:g}"
            )
        apart = float(np.linalg.norm(anchor_u3[u] * [1.0, -1.0, 1.0] - anchor_u3[other]))
        if apart > _APART * size:
            raise ConfigError(f"{place}the image of {a} is {apart:.3f} m away from {b}")
        cosine = float(sign * image_u3[u] @ axis_u3[other])
        if cosine < -np.cos(_TURNED_RAD):
            raise ConfigError(f"{place}{a} and {b} turn the other way: the sign is {-sign:g}")
        if cosine < np.cos(_TURNED_RAD):
            raise ConfigError(f"{place}the axis of {b} is {np.arccos(cosine):.2f} rad away from the image of {a}'s")
