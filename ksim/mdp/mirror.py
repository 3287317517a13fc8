"""How an observation changes when the robot is mirrored left to right (through its x-z plane).

A term declares it with a decorator, so that a learner can use the robot's symmetry:

    @mirrors_as("axial")
    def base_ang_vel(ctx): ...
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Array

from ksim.envs.scene import Scene

# polar: a vector such as a velocity; axial: one such as an angular velocity; planar: a motion over the floor, (x, y,
# yaw rate); joints and action: by the robot's mirror map; command: as the command says; even: stays as it is.
Kind = Literal["polar", "axial", "planar", "joints", "action", "command", "even"]
F = TypeVar("F", bound=Callable)

_SIGNS = {"polar": (1.0, -1.0, 1.0), "axial": (-1.0, 1.0, -1.0), "planar": (1.0, -1.0, -1.0)}


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


def mirrors_as(kind: Kind) -> Callable[[F], F]:
    """Declare how a term's value is mirrored."""

    def decorate(function: F) -> F:
        function.mirrors_as = kind  # type: ignore[attr-defined]
        return function

    return decorate


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


def of_vector(kind: Kind, size: int) -> SignedPermutation:
    """How a vector in the base's frame (of 3 elements), or a value of any size that stays as it is, is mirrored."""
    sign = _SIGNS.get(kind, (1.0,) * size)
    return SignedPermutation(np.arange(len(sign)), np.array(sign, np.float32))
