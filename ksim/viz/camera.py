"""Where pictures are taken from."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from ksim.config.words import hint, listed
from ksim.errors import ConfigError

_FILL = 0.75  # how much of a picture's height or width a robot fills that is framed


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from.

    By default the camera looks at the world point `lookat` (m) from `distance` (m); it looks along `azimuth`
    (degrees: 0 towards +x, 90 towards +y) and `elevation` (degrees: negative looks down). With
    `track` (a body's name) it follows that body's x and y, and `lookat` is then an offset in x and y and a height
    in z, so that a fall is seen as one. With `name`, the camera of that name in the model is used as it is.
    `width` and `height` are in pixels.
    """

    lookat: tuple[float, float, float] = (0.0, 0.0, 0.6)
    distance: float = 3.0
    azimuth: float = 140.0
    elevation: float = -12.0
    track: str | None = None
    name: str | None = None
    width: int = 640
    height: int = 480

    @classmethod
    def between(cls, position: Sequence[float], target: Sequence[float], **others: Any) -> "Camera":
        """Returns the camera at `position` that looks at `target` (m, world frame, or as in `track`)."""
        view = np.asarray(target, dtype=np.float64) - np.asarray(position, dtype=np.float64)
        distance = float(np.linalg.norm(view))
        if not distance > 0:
            raise ConfigError(f"camera: position and target must differ, got {tuple(position)} for both")
        x, y, z = (float(v) for v in target)
        return cls(
            lookat=(x, y, z),
            distance=distance,
            azimuth=math.degrees(math.atan2(view[1], view[0])),
            elevation=math.degrees(math.asin(view[2] / distance)),
            **others,
        )

    @classmethod
    def framing(cls, model: mujoco.MjModel, qpos: ArrayLike, **others: Any) -> "Camera":
        """Returns a camera from which what moves fills most of the picture.

        Args:
            model: what is looked at.
            qpos: (nq,) its pose, such as the home pose.
            others: as for the class; with `track`, the tracked body's kinematic tree is what is framed.
        """
        camera = cls(**others)
        low, high = _bounds(model, np.asarray(qpos), camera.track)
        half_width, half_height = np.linalg.norm((high - low)[:2]) / 2, (high - low)[2] / 2
        tangent = math.tan(math.radians(model.vis.global_.fovy) / 2)
        distance = max(half_height, half_width * camera.height / camera.width) / (_FILL * tangent)
        x, y, z = (low + high) / 2
        return dataclasses.replace(camera, lookat=(float(x), float(y), float(z)), distance=float(distance))

    @classmethod
    def of_model(cls, model: mujoco.MjModel, **others: Any) -> "Camera":
        """Returns the model's own first camera that is fixed to nothing that moves, else one that frames its `qpos0`.

        Args:
            model: what is looked at.
            others: as for the class.
        """
        for i in range(model.ncam):
            follows = model.cam_mode[i] != mujoco.mjtCamLight.mjCAMLIGHT_FIXED
            if model.camera(i).name and (follows or model.body_weldid[model.cam_bodyid[i]] == 0):
                return cls(name=model.camera(i).name, **others)
        return cls.framing(model, model.qpos0, **others)

    def view(self) -> dict[str, Any]:
        """What the render worker's job says of the camera."""
        return {"camera": dataclasses.asdict(self), "width": self.width, "height": self.height}

    def check(self, model: mujoco.MjModel) -> None:
        """Raises ConfigError if the model has no such body or camera, or the size cannot be drawn."""
        if self.width < 2 or self.height < 2:
            raise ConfigError(f"camera: width and height must be at least 2 pixels, got {self.width}x{self.height}")
        if self.name is not None and self.track is not None:
            raise ConfigError("camera: give a named camera or a body to track, not both")
        if self.name is not None:
            _check_name(self.name, "camera", [model.camera(i).name for i in range(model.ncam)])
        if self.track is not None:
            _check_name(self.track, "body", [model.body(i).name for i in range(model.nbody)])


def _bounds(model: mujoco.MjModel, qpos: np.ndarray, track: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (m) of the boxes around the geoms that move; x and y from the tracked body's."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    root = None if track is None else model.body_rootid[model.body(track).id]
    roots = model.body_rootid[model.geom_bodyid]
    seen = (roots != 0) if root is None else (roots == root)
    if not seen.any():
        return np.full(3, -1.0), np.full(3, 1.0)
    centers, halves = model.geom_aabb[seen, :3], model.geom_aabb[seen, 3:]
    rotations = data.geom_xmat[seen].reshape(-1, 3, 3)
    centers = data.geom_xpos[seen] + np.einsum("gij,gj->gi", rotations, centers)
    halves = np.einsum("gij,gj->gi", np.abs(rotations), halves)
    origin = np.zeros(3) if track is None else data.body(track).xpos * [1.0, 1.0, 0.0]
    return (centers - halves).min(axis=0) - origin, (centers + halves).max(axis=0) - origin


def _check_name(name: str, what: str, names: list[str]) -> None:
    if name not in names:
        there = hint(name, names) or f" (there are {listed(filter(None, names)) or 'none'})"
        raise ConfigError(f"camera: the model has no {what} '{name}'{there}")
