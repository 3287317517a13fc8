"""TensorBoard: scalars in `<run_dir>/tensorboard`; `tensorboard --logdir runs` shows all runs side by side."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ksim.errors import KsimError
from ksim.loggers.logger import RunInfo

try:
    from tensorboardX import SummaryWriter
except ImportError as error:
    raise KsimError("needs the extra 'tensorboard'; install it with: pip install 'ksim[tensorboard]'") from error


class TensorBoardLogger:
    """Writes an event file for TensorBoard. It shows no mp4: where the video lies is written as a text."""

    def __init__(self, *, run: RunInfo, flush_s: float = 10.0):
        """Nothing is written before the first numbers come.

        Args:
            run: what is logged.
            flush_s: seconds after which what was logged is on disk.
        """
        self._run = run
        self._flush_s = flush_s
        self._writer: SummaryWriter | None = None

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Scalars at `step` env steps; None and what is not finite are left out."""
        writer = self._at(step)
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                writer.add_scalar(name, value, step)

    def log_video(self, name: str, path: Path, step: int) -> None:
        """Where the mp4 lies."""
        self._at(step).add_text(name, str(path), step)

    def finish(self, exit_code: int = 0) -> None:
        """All is on disk."""
        if self._writer is not None:
            self._writer.close()

    def _at(self, step: int) -> SummaryWriter:
        """The writer; the first step of a resume takes away what an earlier process logged from there on."""
        if self._writer is None:
            folder = str(self._run.path / "tensorboard")
            suffix = f".{step}"  # a file of its own, however soon a resume follows
            self._writer = SummaryWriter(folder, purge_step=step, flush_secs=self._flush_s, filename_suffix=suffix)
            config = json.dumps(self._run.config, indent=2, default=str)
            self._writer.add_text("config", f"```\n{config}\n```", step)
        return self._writer
