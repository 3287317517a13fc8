"""Videos and frames of recorded joint positions, drawn headless in a child process."""

import dataclasses
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mujoco
import numpy as np

from ksim.errors import KsimError
from ksim.viz.backend import BackendReport, RenderError, WorkerError, find_backend, run_worker
from ksim.viz.camera import Camera
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

Caption = Mapping[str, str]  # a text in the upper left corner: names and values, one line each
Rows = TypeVar("Rows", np.ndarray, Sequence[Any])

log = logging.getLogger(__name__)
_warned = False


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
    captions_T: Sequence[Caption] | None = None,
    max_fps: float = 30.0,
    crf: int = 23,
    stall_timeout_s: float = 120.0,
) -> Path:
    """Writes an mp4 (h264, yuv420p) of the joint positions and returns its path.

    `fps` is the rate of the rows of `qpos_Tq` in 1/s (1 / step_dt). The video plays in real time at no more than
    `max_fps`: whole rows are skipped, counted from the last, which is always shown. `captions_T` has a text for each
    row. `crf` is the quality (18 fine, 23 good, 28 coarse). An odd width or height
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
            job: dict[str, Any] = {"kind": "video", "output": str(partial.absolute()), "fps": fps / skip, "crf": crf}
            arrays = _arrays(model, qpos_Tq, markers_T, mocap_pos_TM3, mocap_quat_TM4, skip)
            job["captions"] = _captions(captions_T, len(qpos_Tq), skip)
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
    captions_T: Sequence[Caption] | None = None,
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
            job = {"kind": "frames", "output": str(output), "captions": _captions(captions_T, len(qpos_Tq), skip=1)}
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
    markers_T = [] if markers_T is None else _every(markers_T, skip)
    arrays = {
        "qpos_Tq": _hold_last_finite(_every(qpos_Tq, skip)),
        "markers": pack(markers_T),
        "ghosts": pack_ghosts(markers_T, model.nq),
    }
    for name, array, width in (("mocap_pos_TM3", mocap_pos_TM3, 3), ("mocap_quat_TM4", mocap_quat_TM4, 4)):
        if array is not None:
            array = np.asarray(array, dtype=np.float64)
            if array.shape != (len(qpos_Tq), model.nmocap, width):
                raise ValueError(f"{name} must have shape {(len(qpos_Tq), model.nmocap, width)}, got {array.shape}")
            arrays[name] = _every(array, skip)
    return arrays


def _every(rows_T: Rows, skip: int) -> Rows:
    """Every so many rows; the last one is among them."""
    return rows_T[(len(rows_T) - 1) % skip :: skip]


def _captions(captions_T: Sequence[Caption] | None, count: int, skip: int) -> list[tuple[str, str]]:
    """Names and values of each caption as two columns of lines."""
    if captions_T is None:
        return []
    if len(captions_T) != count:
        raise ValueError(f"captions_T must have one per frame: {count}, got {len(captions_T)}")
    return [("\n".join(caption), "\n".join(caption.values())) for caption in _every(captions_T, skip)]


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
