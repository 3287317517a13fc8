"""The process that draws: `python -P render_worker.py <job folder>`.

It is started by `ksim.viz.backend` by its file's path, so that it imports numpy, mujoco and imageio and
nothing of ksim (and never JAX). MUJOCO_GL is set before it starts, because mujoco reads it when it is first imported.

The folder holds `job.json` and, unless the job is a probe, `model.mjb` and `data.npz`. The worker writes a dot a frame
to its stdout (the parent's sign of life) and at the end `result.json`: `{"ok": true, ...}` or `{"ok": false, "error"}`.

The job `stream` has no `data.npz`: the worker reads a state from its stdin, answers with the picture on its stdout, and
so on until its stdin is closed; see `ksim.viz.live`.
"""

import json
import math
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

PROBE_XML = '<mujoco><worldbody><light pos="0 0 3"/><geom size="0.5" rgba="1 1 1 1"/></worldbody></mujoco>'  # a ball
# Software renderers pay for every texel of the shadow map and every facet of a cylinder; these do at video sizes.
MAX_SHADOW_SIZE = 2048
MAX_SLICES, MAX_STACKS = 16, 10
SHADOWED = 0.7  # half the width of what casts shadows, in distances between the camera and what it looks at
ARROW, SPHERE, CAPSULE = 0, 1, 2  # as in markers.py
ROW_SIZE = 13  # as in markers.py
MAX_MARKERS = 10_000
_SKY, _HFIELD = 1e3, 1  # m; mjGEOM_HFIELD
REQUEST = struct.Struct("<qq")  # how many marker rows and ghost rows follow the positions; all of them float64
ANSWER = struct.Struct("<?q")  # whether it is a picture (else why there is none), and how many bytes follow


def main(folder: Path) -> int:
    """Do the job that lies in a folder and leave its result there; 0 where it went well."""
    job = json.loads((folder / "job.json").read_text())
    _arm_watchdog(job["stall_timeout_s"])
    try:
        result = {"ok": True, **JOBS[job["kind"]](folder, job)}
    except BaseException as err:  # whatever a driver throws becomes the reason that the parent reports
        result = {"ok": False, "error": f"{type(err).__name__}: {err}"}
    (folder / "result.json").write_text(json.dumps(result))
    return 0 if result["ok"] else 1


def _arm_watchdog(seconds: float | None) -> None:
    # The parent kills a stalled worker; should the parent itself be gone, the kernel ends it a little later,
    # even inside a driver call that never returns. None: nobody waits.
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(0 if seconds is None else int(seconds) + 30)


def _probe(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
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
    import numpy as np

    with np.load(folder / "data.npz") as arrays:
        qpos_Tq, rows, ghosts = arrays["qpos_Tq"], arrays["markers"], arrays["ghosts"]
        mocap_pos_TM3, mocap_quat_TM4 = arrays.get("mocap_pos_TM3"), arrays.get("mocap_quat_TM4")
    artist = _Artist(folder, job)
    make_sink = _VideoSink if job["kind"] == "video" else _ArraySink
    sink = make_sink(job, len(qpos_Tq), artist.width, artist.height)
    for t, qpos in enumerate(qpos_Tq):
        _arm_watchdog(job["stall_timeout_s"])
        if mocap_pos_TM3 is not None:
            artist.data.mocap_pos[:] = mocap_pos_TM3[t]
        if mocap_quat_TM4 is not None:
            artist.data.mocap_quat[:] = mocap_quat_TM4[t]
        caption = job["captions"][t] if job.get("captions") else ("", "")
        sink.write(artist.draw(qpos, rows[rows[:, 0] == t], ghosts[ghosts[:, 0] == t], caption))
        print(".", end="", flush=True)
    sink.close()
    return {"frames": len(qpos_Tq)}


def _stream(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a driver prints must not end up between two pictures

    def answer(is_picture: bool, content: bytes) -> None:
        answers.write(ANSWER.pack(is_picture, len(content)) + content)
        answers.flush()

    def numbers(count: int) -> Any:
        return np.frombuffer(requests.read(8 * count), np.float64)

    frames = 0
    try:
        artist = _Artist(folder, job)
        num_qpos = artist.model.nq
        while True:
            _arm_watchdog(None)
            header = requests.read(REQUEST.size)
            if len(header) < REQUEST.size:  # the parent has closed its end, or is gone
                return {"frames": frames}
            _arm_watchdog(job["stall_timeout_s"])
            num_rows, num_ghosts = REQUEST.unpack(header)
            qpos, rows = numbers(num_qpos), numbers(num_rows * ROW_SIZE).reshape(-1, ROW_SIZE)
            ghosts = numbers(num_ghosts * (5 + num_qpos)).reshape(-1, 5 + num_qpos)
            answer(True, artist.draw(qpos, rows, ghosts).tobytes())
            frames += 1
    except Exception as err:
        answer(False, f"{type(err).__name__}: {err}".encode())
        raise


JOBS = {"probe": _probe, "video": _render, "frames": _render, "stream": _stream}


class _Artist:
    """A model, its GL context and its camera."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        import mujoco
        import numpy as np

        self.model = model = mujoco.MjModel.from_binary_path(str(folder / "model.mjb"))
        self.camera, self.width, self.height = job["camera"], job["width"], job["height"]
        visual = model.vis
        visual.global_.offwidth, visual.global_.offheight = self.width, self.height
        visual.quality.shadowsize = min(visual.quality.shadowsize, MAX_SHADOW_SIZE)
        visual.quality.numslices = min(visual.quality.numslices, MAX_SLICES)
        visual.quality.numstacks = min(visual.quality.numstacks, MAX_STACKS)
        if self.camera["name"] is None:
            visual.map.shadowclip = shadow_clip(model, self.camera["distance"])
        self.data, self._ghost = mujoco.MjData(model), mujoco.MjData(model)
        self._level = Level(model, self.camera["track"])
        self._gl = mujoco.GLContext(self.width, self.height)  # lives as long as what is drawn with it
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, MAX_MARKERS + model.ngeom)
        self._viewport = mujoco.MjrRect(0, 0, self.width, self.height)
        self._image = np.empty((self.height, self.width, 3), dtype=np.uint8)

    def draw(self, qpos: Any, rows: Any, ghosts: Any, caption: Any = ("", "")) -> Any:
        """Returns the picture of a state, valid until the next one.

        Args:
            qpos: positions.
            rows, ghosts: markers, as packed.
            caption: two columns of text for the upper left corner, lines with their ends.
        """
        import mujoco

        place(self.model, self.data, qpos)
        camera, scene = _camera(self.model, self.data, self.camera), self._scene
        camera.lookat[2] += self._level.follow(self.data)
        aim_suns(self.model, self.data, camera)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, self.data, mujoco.MjvOption(), None, camera, everything, scene)
        _take_shadows_off_floors(scene)
        for ghost in ghosts:
            place(self.model, self._ghost, ghost[5:])
            draw_ghost(scene, self.model, self._ghost, ghost[1:5])
        draw_markers(scene, rows)
        mujoco.mjr_render(self._viewport, scene, self._context)
        if any(caption):
            font, corner = mujoco.mjtFont.mjFONT_NORMAL, mujoco.mjtGridPos.mjGRID_TOPLEFT
            mujoco.mjr_overlay(font, corner, self._viewport, *caption, self._context)
        mujoco.mjr_readPixels(self._image, None, self._viewport, self._context)
        return self._image[::-1]


def shadow_clip(model: Any, distance: float) -> float:
    """How far around what is looked at shadows are cast, in the model's extents."""
    return float(SHADOWED * distance / model.stat.extent)


def aim_suns(model: Any, data: Any, camera: Any) -> None:
    """A directional light casts shadows of what lies around its position only: put it over what is looked at."""
    import mujoco

    target, away = camera.lookat, max(camera.distance, model.stat.extent)
    if camera.type == mujoco.mjtCamera.mjCAMERA_FIXED:
        target, away = model.stat.center, model.stat.extent
    for light in range(model.nlight):
        if model.light_type[light] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
            data.light_xpos[light] = target - 2 * away * data.light_xdir[light]


def _take_shadows_off_floors(scene: Any) -> None:
    """A plane would be dotted with shadows of its own: it is drawn as large triangles, whose depths round coarsely."""
    import mujoco

    for geom in scene.geoms[: scene.ngeom]:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:
            geom.category = mujoco.mjtCatBit.mjCAT_DECOR


def place(model: Any, data: Any, qpos: Any) -> None:
    """What drawing needs, and not the collisions and constraints of mj_forward."""
    import mujoco

    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    mujoco.mj_tendon(model, data)


def draw_ghost(scene: Any, model: Any, data: Any, rgba: Any) -> None:
    """Add to a scene what moves, as it is in an `mjData`, in one colour."""
    import mujoco

    first = scene.ngeom
    moving = mujoco.mjtCatBit.mjCAT_DYNAMIC  # not the floor a second time
    mujoco.mjv_addGeoms(model, data, mujoco.MjvOption(), mujoco.MjvPerturb(), moving, scene)
    for geom in scene.geoms[first : scene.ngeom]:
        geom.rgba[:] = rgba
        geom.matid = -1
        geom.category = mujoco.mjtCatBit.mjCAT_DECOR  # it casts no shadow


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


class Level:
    """How high a camera is lifted that tracks a body over uneven ground, m: it rises and sinks smoothly."""

    def __init__(self, model: Any, body: str | None) -> None:
        self._model, self._body = model, 0 if body is None else model.body(body).id
        self._fields = [] if body is None else (model.geom_type == _HFIELD).nonzero()[0]
        self._last = math.inf

    def follow(self, data: Any) -> float:
        """The next picture's."""
        import mujoco

        sky = (*data.xpos[self._body][:2], _SKY)
        rays = [mujoco.mj_rayHfield(self._model, data, g, sky, (0.0, 0.0, -1.0)) for g in self._fields]
        level = max([_SKY - ray for ray in rays if ray >= 0], default=0.0)
        is_elsewhere = abs(level - self._last) > 1.0  # the first one, or the robot was put there
        self._last = level if is_elsewhere else self._last + 0.1 * (level - self._last)
        return self._last


def draw_markers(scene: Any, rows: Any) -> None:
    """Add markers, as packed, to a scene."""
    import mujoco
    import numpy as np

    names = {ARROW: "ARROW", SPHERE: "SPHERE", CAPSULE: "CAPSULE"}
    kinds = {kind: getattr(mujoco.mjtGeom, f"mjGEOM_{name}") for kind, name in names.items()}
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

    def __init__(self, job: dict[str, Any], frames: int, width: int, height: int) -> None:
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
