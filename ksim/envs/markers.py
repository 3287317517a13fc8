"""What terms draw, as data: shapes in world coordinates that a renderer adds to a scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Vec3: TypeAlias = Sequence[float] | np.ndarray
Rgba: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True)
class Arrow:
    """An arrow from `start` to `end` (metres, world frame); `radius` is that of its shaft."""

    start: Vec3
    end: Vec3
    radius: float = 0.016
    rgba: Rgba = (0.9, 0.1, 0.1, 1.0)


@dataclass(frozen=True)
class Sphere:
    """A ball around `position` (metres, world frame)."""

    position: Vec3
    radius: float = 0.03
    rgba: Rgba = (0.1, 0.6, 0.9, 1.0)


@dataclass(frozen=True)
class Capsule:
    """A capsule whose axis runs from `start` to `end` (metres, world frame)."""

    start: Vec3
    end: Vec3
    radius: float = 0.02
    rgba: Rgba = (0.9, 0.7, 0.1, 1.0)


@dataclass(frozen=True)
class Frame:
    """A coordinate frame: x red, y green, z blue, each `length` metres; `quat` is (w, x, y, z)."""

    position: Vec3
    quat: Sequence[float] | np.ndarray = (1.0, 0.0, 0.0, 0.0)
    length: float = 0.2
    radius: float = 0.01


@dataclass(frozen=True)
class Ghost:
    """The whole model in another state, see-through: `qpos` is `(nq,)`; `rgba` replaces the colours of its geoms."""

    qpos: Sequence[float] | np.ndarray
    rgba: Rgba = (0.5, 0.7, 1.0, 0.35)


Marker: TypeAlias = Arrow | Sphere | Capsule | Frame | Ghost
