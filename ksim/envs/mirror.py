"""How vectors of a robot change when it is mirrored left to right (through its x-z plane)."""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Array

from ksim.envs.scene import Scene
from ksim.envs.traits import MirrorKind

_APART = 0.02  # m; a robot's two sides are not exact images of each other

_SIGNS = {"polar": (1.0, -1.0, 1.0), "axial": (-1.0, 1.0, -1.0), "planar": (1.0, -1.0, -1.0), "phase": (-1.0, -1.0)}


@dataclass(frozen=True, eq=False)
class SignedPermutation:
    """The mirrored vector is `sign * x[..., index]`; applied twice it gives `x` again.

    Attributes:
        index: (n,) which element comes here.
        sign: (n,) +1 or -1.
    """

    index: np.ndarray
    sign: np.ndarray

    def __eq__(self, other: object) -> bool:
        """By value: JAX compares the static fields of networks."""
        return isinstance(other, SignedPermutation) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return tuple(self.index.tolist()), tuple(self.sign.tolist())

    def __call__(self, x: Array) -> Array:
        """The mirrored vector, along the last axis."""
        return x[..., self.index] * self.sign


def concatenated(parts: list[SignedPermutation]) -> SignedPermutation:
    """The permutation of vectors that are concatenated."""
    offsets = np.cumsum([0, *(len(p.index) for p in parts)])[:-1]
    index = [p.index + offset for p, offset in zip(parts, offsets, strict=True)]
    return SignedPermutation(np.concatenate(index), np.concatenate([p.sign for p in parts]))


def of_joints(scene: Scene, joints_u: np.ndarray) -> SignedPermutation | None:
    """How values of these joints (indices into the actuated joints) are mirrored among themselves.

    None where the robot has no mirror map, where it leaves a joint out, or where a joint's partner is not among them.
    """
    mirror = scene.robot.mirror
    if mirror is None or any(joint >= len(mirror.joint_index_u) for joint in joints_u):
        return None
    position = {int(joint): i for i, joint in enumerate(joints_u)}
    partners = [position.get(int(mirror.joint_index_u[joint])) for joint in joints_u]
    if any(partner is None for partner in partners):
        return None
    return SignedPermutation(np.array(partners), np.asarray(mirror.joint_sign_u[joints_u], np.float32))


def of_bodies(scene: Scene, ids: np.ndarray) -> SignedPermutation | None:
    """How numbers of these bodies swap sides, found by their centres of mass; None where one has no partner here."""
    return _of_points(scene, _home(scene).xipos[ids])


def of_contacts(scene: Scene, sensor: str) -> SignedPermutation | None:
    """How numbers of a contact sensor's elements swap sides, found by their geoms; None where one has no partner."""
    model, data = scene.model, _home(scene)
    elements = ([model.sensor(name).objid[0] for name in names] for names in scene.contacts[sensor].sensors)
    return _of_points(scene, np.stack([data.geom_xpos[geoms].mean(axis=0) for geoms in elements]))


def _home(scene: Scene) -> mujoco.MjData:
    data = mujoco.MjData(scene.model)
    data.qpos[:] = scene.home_qpos
    mujoco.mj_kinematics(scene.model, data)
    return data


def _of_points(scene: Scene, points: np.ndarray) -> SignedPermutation | None:
    """Which of the points (n, 3), in the world of the home pose, are images of each other in the base's x-z plane."""
    base = _home(scene).body(scene.robot.base_body)
    points = (points - base.xpos) @ base.xmat.reshape(3, 3)
    distance = np.linalg.norm(points[:, None] - points * [1.0, -1.0, 1.0], axis=-1)
    partner = distance.argmin(axis=1)
    mutual = partner[partner] == np.arange(len(points))
    if not mutual.all() or distance.min(axis=1).max() > _APART:
        return None
    return SignedPermutation(partner, np.ones(len(points), np.float32))


def of_vector(kind: MirrorKind, size: int) -> SignedPermutation:
    """How a vector in the base's frame (of 3 elements), a phase (2), or what stays as it is (any size) is mirrored."""
    sign = _SIGNS.get(kind, (1.0,) * size)
    return SignedPermutation(np.arange(len(sign)), np.array(sign, np.float32))
