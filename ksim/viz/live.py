"""Pictures of states as they come, headless: one child process that keeps its renderer and draws on request."""

import os
import selectors
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from ksim.viz.backend import RenderError, find_backend, kill_worker, short, start_worker
from ksim.viz.camera import Camera
from ksim.viz.markers import Marker, pack, pack_ghosts
from ksim.viz.render_worker import ANSWER, REQUEST


class LiveRenderer:
    """Draws one state after the other; the child process starts with the first and ends with `close()`."""

    def __init__(self, model: mujoco.MjModel, camera: Camera, *, stall_timeout_s: float = 120.0):
        """Make a renderer; nothing is started yet.

        Args:
            model: what is drawn.
            camera: where from, and the size of the pictures.
            stall_timeout_s: seconds that a picture may take.

        Raises:
            ConfigError: the camera names something that the model does not have.
        """
        camera.check(model)
        self.model = model
        self.camera = camera
        self.stall_timeout_s = stall_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def draw(self, qpos: ArrayLike, markers: Sequence[Marker] = ()) -> np.ndarray:
        """The picture of a state: RGB, uint8, shape `(height, width, 3)`.

        Args:
            qpos: (nq,) positions.
            markers: what is drawn besides.

        Raises:
            RenderError: no renderer on this machine, or it failed; the next call starts a fresh one.
            ValueError: positions or a ghost of another model.
        """
        qpos = np.asarray(qpos, dtype=np.float64)
        if qpos.shape != (self.model.nq,):
            raise ValueError(f"qpos must have shape ({self.model.nq},), got {qpos.shape}")
        if not np.isfinite(qpos).all():
            raise RenderError("nothing to draw: the positions are not finite")
        rows, ghosts = pack([markers]), pack_ghosts([markers], self.model.nq)
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + self.stall_timeout_s
        try:
            process.stdin.write(REQUEST.pack(len(rows), len(ghosts)) + qpos.tobytes())
            process.stdin.write(rows.tobytes() + ghosts.tobytes())
            process.stdin.flush()
            is_picture, size = ANSWER.unpack(_read(process, ANSWER.size, deadline))
            content = _read(process, size, deadline)
        except (OSError, EOFError) as error:
            self.close()
            raise RenderError(f"Rendering failed: {short(str(error)) or 'the process that draws is gone'}") from error
        except BaseException:  # a Ctrl-C, say: the next answer would be that of this request
            self.close()
            raise
        if not is_picture:
            self.close()
            raise RenderError(f"Rendering failed: {short(content.decode(errors='replace'))}")
        return np.frombuffer(content, np.uint8).reshape(self.camera.height, self.camera.width, 3)

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._process is not None:
            self._finalizer()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        backend = find_backend()
        folder = tempfile.TemporaryDirectory(prefix="ksim_render_")
        mujoco.mj_saveModel(self.model, str(Path(folder.name) / "model.mjb"), None)
        job = {"kind": "stream", **self.camera.view()}
        pipe = subprocess.PIPE
        self._process = start_worker(
            job, backend.name, Path(folder.name), self.stall_timeout_s, stdin=pipe, stdout=pipe
        )
        self._finalizer = weakref.finalize(self, _end, self._process, folder)
        return self._process


def _read(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    """So many bytes of the worker's answer.

    Raises:
        EOFError: it ended or gave no answer in time.
    """
    assert process.stdout is not None
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while size:
            if not selector.select(max(deadline - time.monotonic(), 0.0)):
                raise EOFError("no answer in time; the driver seems to hang")
            part = os.read(process.stdout.fileno(), min(size, 1 << 20))
            if not part:
                raise EOFError("the process that draws has ended")
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory) -> None:
    kill_worker(process)
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:  # what could not be written any more
            pass
    folder.cleanup()
