"""Videos and frames of recorded joint positions, drawn headless in a child process."""

import dataclasses
import difflib
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from ksim.errors import ConfigError, KsimError
from ksim.viz.backend import BackendReport, RenderError, WorkerError, find_backend, run_worker
from ksim.viz.markers import DebugVisualizer, Marker, pack, pack_ghosts

__all__ = [
    "BackendReport",
    "Camera",
    "DebugVisualizer",
    "RenderError",
    "find_backend",
    "render_frames",
    "render_video",
    "try_render_video",
]

log = logging.getLogger(__name__)
_warned = False


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
    elevation: float = -15.0
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


def _check_name(name: str, what: str, names: list[str]) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there is: {', '.join(n for n in names if n) or 'none'}"
    raise ConfigError(f"camera: the model has no {what} '{name}' ({hint})")


def render_video(
    model: mujoco.MjModel,
    qpos_Tq: np.ndarray,
    path: Path | str,
    *,
    fps: float,
    camera: Camera | None = None,
    markers_T: Sequence[Sequence[Marker]] | None = None,
    mocap_pos_TM3: np.ndarray | None = None,
    mocap_quat_TM4: np.ndarray | None = None,
    max_fps: float = 30.0,
    crf: int = 23,
    stall_timeout_s: float = 120.0,
) -> Path:
    """Writes an mp4 (h264, yuv420p) of the joint positions and returns its path.

    `fps` is the rate of the rows of `qpos_Tq` in 1/s (1 / step_dt). The video plays in real time at no more than
    `max_fps`: whole rows are skipped. `crf` is the quality (18 fine, 23 good, 28 coarse). An odd width or height
    loses its last pixel, because yuv420p needs even ones. The file appears complete or not at all.

    Raises:
        RenderError: no renderer on this machine, or it failed.
        ConfigError: the camera names something that the model does not have.
        ValueError: arrays of the wrong shape.
    """
    camera = camera or Camera()
    path = Path(path)
    if not (fps > 0 and max_fps > 0):
        raise ValueError(f"fps and max_fps must be positive, got {fps} and {max_fps}")
    skip = max(1, math.ceil(fps / max_fps - 1e-6))
    camera = dataclasses.replace(camera, width=camera.width // 2 * 2, height=camera.height // 2 * 2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise RenderError(f"cannot write {path}: {err}") from err
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
    try:
        with tempfile.TemporaryDirectory(prefix="ksim_render_") as folder:
            job = {"kind": "video", "output": str(partial.absolute()), "fps": fps / skip, "crf": crf}
            arrays = _arrays(model, qpos_Tq, markers_T, mocap_pos_TM3, mocap_quat_TM4, skip)
            _run(model, arrays, camera, job, Path(folder), stall_timeout_s)
        os.replace(partial, path)
    except OSError as err:
        raise RenderError(f"cannot write {path}: {err}") from err
    finally:
        partial.unlink(missing_ok=True)
    return path


def render_frames(
    model: mujoco.MjModel,
    qpos_Tq: np.ndarray,
    *,
    camera: Camera | None = None,
    markers_T: Sequence[Sequence[Marker]] | None = None,
    mocap_pos_TM3: np.ndarray | None = None,
    mocap_quat_TM4: np.ndarray | None = None,
    stall_timeout_s: float = 120.0,
) -> np.ndarray:
    """Returns a picture of each row of `qpos_Tq`: RGB, uint8, shape `(T, height, width, 3)`.

    Raises:
        RenderError: no renderer on this machine, or it failed.
        ConfigError: the camera names something that the model does not have.
        ValueError: arrays of the wrong shape.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="ksim_render_") as folder:
            output = Path(folder) / "frames.npy"
            job = {"kind": "frames", "output": str(output)}
            arrays = _arrays(model, qpos_Tq, markers_T, mocap_pos_TM3, mocap_quat_TM4, skip=1)
            _run(model, arrays, camera or Camera(), job, Path(folder), stall_timeout_s)
            frames: np.ndarray = np.load(output)
    except OSError as err:
        raise RenderError(f"cannot render: {err}") from err
    return frames


def try_render_video(
    model: mujoco.MjModel, qpos_Tq: np.ndarray, path: Path | str, *, fps: float, **options: Any
) -> Path | None:
    """Does what `render_video` does, but a missing or failing renderer gives None and one warning in the log.

    For a training, which must not end for want of a video. The full reason is logged the first time, later at DEBUG.
    """
    global _warned
    try:
        return render_video(model, qpos_Tq, path, fps=fps, **options)
    except KsimError as err:
        log.log(logging.DEBUG if _warned else logging.WARNING, "No video %s: %s", path, err)
        _warned = True
        return None


def _arrays(
    model: mujoco.MjModel,
    qpos_Tq: np.ndarray,
    markers_T: Sequence[Sequence[Marker]] | None,
    mocap_pos_TM3: np.ndarray | None,
    mocap_quat_TM4: np.ndarray | None,
    skip: int,
) -> dict[str, np.ndarray]:
    qpos_Tq = np.asarray(qpos_Tq, dtype=np.float64)
    if qpos_Tq.ndim != 2 or qpos_Tq.shape[1] != model.nq or len(qpos_Tq) == 0:
        raise ValueError(f"qpos_Tq must have shape (T >= 1, {model.nq}), got {qpos_Tq.shape}")
    if markers_T is not None and len(markers_T) != len(qpos_Tq):
        raise ValueError(f"markers_T must have one list a frame: {len(qpos_Tq)}, got {len(markers_T)}")
    markers_T = [] if markers_T is None else markers_T[::skip]
    arrays = {
        "qpos_Tq": _hold_last_finite(qpos_Tq[::skip]),
        "markers": pack(markers_T),
        "ghosts": pack_ghosts(markers_T, model.nq),
    }
    for name, array, width in (("mocap_pos_TM3", mocap_pos_TM3, 3), ("mocap_quat_TM4", mocap_quat_TM4, 4)):
        if array is not None:
            array = np.asarray(array, dtype=np.float64)
            if array.shape != (len(qpos_Tq), model.nmocap, width):
                raise ValueError(f"{name} must have shape {(len(qpos_Tq), model.nmocap, width)}, got {array.shape}")
            arrays[name] = array[::skip]
    return arrays


def _hold_last_finite(qpos_Tq: np.ndarray) -> np.ndarray:
    # A diverged robot has no place to be drawn at: the picture freezes where it last made sense.
    good_T = (np.isfinite(qpos_Tq) & (np.abs(qpos_Tq) < 1e10)).all(axis=1)
    if good_T.all():
        return qpos_Tq
    if not good_T.any():
        raise RenderError("nothing to draw: the positions are not finite in any frame")
    log.warning("%d of %d frames hold positions that are not finite; the picture stands still there",
                int((~good_T).sum()), len(good_T))  # fmt: skip
    index_T = np.maximum.accumulate(np.where(good_T, np.arange(len(good_T)), -1))
    return qpos_Tq[np.where(index_T < 0, int(np.argmax(good_T)), index_T)]


def _run(
    model: mujoco.MjModel,
    arrays: dict[str, np.ndarray],
    camera: Camera,
    job: dict[str, Any],
    folder: Path,
    stall_timeout_s: float,
) -> None:
    camera.check(model)
    backend = find_backend()
    mujoco.mj_saveModel(model, str(folder / "model.mjb"), None)
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    try:
        run_worker({**job, **camera.view()}, backend.name, folder=folder, stall_timeout_s=stall_timeout_s)
    except WorkerError as err:
        raise RenderError(f"Rendering with MUJOCO_GL={backend.name} ({backend.device}) failed: {err}") from err
