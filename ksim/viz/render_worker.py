"""The process that draws: `python -P render_worker.py <job folder>`.

It is started by `ksim.viz.backend` by its file's path, so that it imports numpy, mujoco and imageio and
nothing of ksim (and never JAX). MUJOCO_GL is set before it starts, because mujoco reads it when it is first imported.

The folder holds `job.json` and, unless the job is a probe, `model.mjb` and `data.npz`. The worker writes a dot a frame
to its stdout (the parent's sign of life) and at the end `result.json`: `{"ok": true, ...}` or `{"ok": false, "error"}`.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

PROBE_XML = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="sphere" size="0.5" rgba="1 1 1 1"/>
  </worldbody>
</mujoco>
"""
# Software renderers pay for every texel of the shadow map, and 1024 looks well at video sizes.
MAX_SHADOW_SIZE = 1024
ARROW, SPHERE, CAPSULE = 0, 1, 2  # as in markers.py


def main(folder: Path) -> int:
    job = json.loads((folder / "job.json").read_text())
    _arm_watchdog(job["stall_timeout_s"])
    try:
        result = {"ok": True, **(_probe() if job["kind"] == "probe" else _render(folder, job))}
    except BaseException as err:  # whatever a driver throws becomes the reason that the parent reports
        result = {"ok": False, "error": f"{type(err).__name__}: {err}"}
    (folder / "result.json").write_text(json.dumps(result))
    return 0 if result["ok"] else 1


def _arm_watchdog(seconds: float) -> None:
    # The parent kills a stalled worker; should the parent itself be gone, the kernel ends it a little later,
    # even inside a driver call that never returns.
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(seconds) + 30)


def _probe() -> dict[str, Any]:
    import mujoco

    model = mujoco.MjModel.from_xml_string(PROBE_XML)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 32, 32)
    renderer.update_scene(data)
    image = renderer.render()
    if image.max() == 0:
        raise RuntimeError("it drew a black picture of a white ball")
    return {"device": _device()}


def _device() -> str:
    try:
        from OpenGL import GL

        return str(GL.glGetString(GL.GL_RENDERER).decode())
    except Exception:  # a name for the log, nothing more
        return "unknown"


def _render(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    import mujoco
    import numpy as np

    model = mujoco.MjModel.from_binary_path(str(folder / "model.mjb"))
    with np.load(folder / "data.npz") as arrays:
        qpos_Tq, rows = arrays["qpos_Tq"], arrays["markers"]
        mocap_pos_TM3 = arrays["mocap_pos_TM3"] if "mocap_pos_TM3" in arrays else None
        mocap_quat_TM4 = arrays["mocap_quat_TM4"] if "mocap_quat_TM4" in arrays else None
    camera, width, height = job["camera"], job["width"], job["height"]
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    model.vis.quality.shadowsize = min(model.vis.quality.shadowsize, MAX_SHADOW_SIZE)

    data = mujoco.MjData(model)
    renderer = mujoco.Renderer(model, height, width, max_geom=10_000 + len(rows))
    sink = _VideoSink(job, width, height) if job["kind"] == "video" else _ArraySink(job, len(qpos_Tq), width, height)
    image = np.empty((height, width, 3), dtype=np.uint8)
    for t, qpos in enumerate(qpos_Tq):
        _arm_watchdog(job["stall_timeout_s"])
        data.qpos[:] = qpos
        if mocap_pos_TM3 is not None:
            data.mocap_pos[:] = mocap_pos_TM3[t]
        if mocap_quat_TM4 is not None:
            data.mocap_quat[:] = mocap_quat_TM4[t]
        # What drawing needs, and not the collisions and constraints of mj_forward.
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        mujoco.mj_tendon(model, data)
        renderer.update_scene(data, _camera(model, data, camera))
        _draw_markers(renderer.scene, rows[rows[:, 0] == t])
        renderer.render(out=image)
        sink.write(image)
        sys.stdout.write(".")
        sys.stdout.flush()
    sink.close()
    return {"frames": len(qpos_Tq)}


def _camera(model: Any, data: Any, camera: dict[str, Any]) -> Any:
    import mujoco
    import numpy as np

    view = mujoco.MjvCamera()
    if camera["name"] is not None:
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = model.camera(camera["name"]).id
        return view
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    lookat = np.array(camera["lookat"], dtype=np.float64)
    if camera["track"] is not None:
        lookat[:2] += data.xpos[model.body(camera["track"]).id][:2]
    view.lookat[:] = lookat
    view.distance, view.azimuth, view.elevation = camera["distance"], camera["azimuth"], camera["elevation"]
    return view


def _draw_markers(scene: Any, rows: Any) -> None:
    import mujoco
    import numpy as np

    kinds = {
        ARROW: mujoco.mjtGeom.mjGEOM_ARROW,
        SPHERE: mujoco.mjtGeom.mjGEOM_SPHERE,
        CAPSULE: mujoco.mjtGeom.mjGEOM_CAPSULE,
    }
    for row in rows:
        if scene.ngeom >= scene.maxgeom:
            return
        kind, start, end, radius = kinds[int(row[1])], row[2:5].copy(), row[5:8].copy(), float(row[8])
        geom = scene.geoms[scene.ngeom]
        rgba = row[9:13].astype(np.float32)
        mujoco.mjv_initGeom(geom, kind, np.full(3, radius), start, np.eye(3).ravel(), rgba)
        if int(row[1]) != SPHERE:
            mujoco.mjv_connector(geom, kind, radius, start, end)
        if int(row[1]) == ARROW:
            geom.size[2] *= 2  # MuJoCo draws an arrow half as long as it is (a test looks for its tip)
        geom.category = mujoco.mjtCatBit.mjCAT_DECOR
        scene.ngeom += 1


class _VideoSink:
    """Streams frames into ffmpeg, so that memory holds one of them."""

    def __init__(self, job: dict[str, Any], width: int, height: int) -> None:
        import imageio.v2 as imageio

        self._writer = imageio.get_writer(
            job["output"],
            format="FFMPEG",
            fps=job["fps"],
            codec="libx264",
            pixelformat="yuv420p",  # what every player and browser reads
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=["-crf", str(job["crf"]), "-preset", "veryfast", "-movflags", "+faststart"],
        )

    def write(self, image: Any) -> None:
        self._writer.append_data(image)

    def close(self) -> None:
        self._writer.close()


class _ArraySink:
    """Writes frames into a .npy file that the parent loads."""

    def __init__(self, job: dict[str, Any], frames: int, width: int, height: int) -> None:
        import numpy as np

        shape = (frames, height, width, 3)
        self._array = np.lib.format.open_memmap(job["output"], mode="w+", dtype=np.uint8, shape=shape)
        self._next = 0

    def write(self, image: Any) -> None:
        self._array[self._next] = image
        self._next += 1

    def close(self) -> None:
        self._array.flush()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Some drivers crash while a context is torn down (OSMesa raises in __del__); all is written, so leave at once.
    os._exit(code)
