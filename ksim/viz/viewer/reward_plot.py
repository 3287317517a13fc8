"""The rewards of a viewer as a picture on disk that is drawn again and again, by a process of its own."""

import contextlib
import io
import logging
import os
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ksim.viz.viewer import plot_worker
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.history import History

log = logging.getLogger(__name__)

_MAX_POINTS = 1000  # more than the picture can show
_SHOWN = ("reward/", "termination/")


class RewardPlot:
    """Draws reward terms, total and terminations into `<plot_path>/rewards.png`, whether time passes or not.

    A thread sends the newest points to a child process that draws them, renames the picture to its place and answers;
    while it draws it is sent nothing. The loop of the viewer waits for neither.
    """

    def __init__(self, history: History, cfg: InteractiveVisualizerConfig):
        """Nothing is started or made on disk before the context is entered."""
        self.path = _folder(cfg.plot_path) / "rewards.png"
        self._history = history
        self._every_s = cfg.plot_every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reward plot", daemon=True)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-P", plot_worker.__file__, str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._process.kill()  # a picture is in its place whole or not at all
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        with contextlib.suppress(OSError):
            plot_worker.temporary(self.path).unlink()

    def _work(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            while not self._ended.is_set():
                content = _packed(self._history)
                self._process.stdin.write(struct.pack("<q", len(content)) + content)
                self._process.stdin.flush()
                if not self._process.stdout.read(1):
                    break
                self._ended.wait(self._every_s)
        except OSError:
            pass
        if not self._ended.is_set():
            log.warning("the plots in %s end here: the process that draws them has ended", self.path)


def _packed(history: History) -> bytes:
    times, values = history.read()
    stride = max(1, len(times) // _MAX_POINTS)
    shown = {name: x[::stride].astype(np.float32) for name, x in values.items() if name.startswith(_SHOWN)}
    for name in shown:
        if name.startswith("termination/") and stride > 1:  # an end must not fall between two points
            shown[name] = np.maximum.reduceat(values[name], np.arange(0, len(times), stride)).astype(np.float32)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, time=times[::stride], **shown)
    return file.getvalue()


def _folder(given: str | None) -> Path:
    """The folder of the plots: the same one in each session, unless somebody else owns it."""
    if given is not None:
        return Path(given).expanduser().absolute()
    folder = Path(tempfile.gettempdir()) / "rewards_plots"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        is_own = not folder.is_symlink() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())
    except OSError:
        is_own = False
    return folder if is_own else Path(tempfile.mkdtemp(prefix="rewards_plots_"))
