"""Weights & Biases."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ksim.loggers.logger import RunInfo
from ksim.store import files

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
_NOT_LOGGED_IN = "nobody is logged in to wandb on this machine: run `wandb login`, or set WANDB_API_KEY"


class WandbLogger:
    """Sends to Weights & Biases; in `offline` mode into `<run_dir>/wandb`, for a later `wandb sync`.

    The wandb run's id is kept in `<run_dir>/wandb.json`, so that a resume goes on under it. An online run that cannot
    start (not logged in, no network) is warned of and becomes an offline one.
    """

    def __init__(
        self,
        *,
        run: RunInfo,
        mode: Mode = "online",
        project: str = "ksim",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        run_id: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Start the wandb run, or go on with it.

        Args:
            run: what is logged: config, metrics and videos.
            mode: `disabled` does nothing.
            project: that the run appears in.
            entity: user or team; None: the account's default.
            group: of runs that belong together; a sweep's runs have its folder's name unless another is given.
            tags: labels of the run.
            run_id: wandb's own; None: the one before, or a new one.
            timeout_s: seconds for the start, and for the last upload at the end.
        """
        self.run_id: str | None = None
        self._run: Any = None
        self._last_step = 0
        if mode == "disabled":
            return
        record = run.path / "wandb.json"
        self.run_id = run_id or _read(record).get("id") or os.urandom(4).hex()

        settings = {
            "id": self.run_id,
            "dir": run.path,
            "project": project,
            "entity": entity,
            "group": group,
            "name": run.name,
            "tags": list(tags),
            "config": files.jsonable(run.config),
        }
        if mode == "online" and is_logged_in() is False:
            log.warning("%s; this run is logged offline instead (see `wandb sync`)", _NOT_LOGGED_IN)
            mode = "offline"
        if mode == "online":
            try:
                self._run = _start("online", settings, timeout_s)
            except Exception as error:
                log.warning("wandb cannot be reached (%s); this run is logged offline (see `wandb sync`)", error)
                mode = "offline"
                _forget()
        if self._run is None:
            self._run = _start(mode, settings, timeout_s)
        found = {"id": self.run_id, "project": project, "entity": entity, "group": group, "mode": mode}
        files.write_atomic(record, files.json_bytes(found))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Numbers at `step` env steps; steps may not fall."""
        self._last_step = max(step, self._last_step)
        self._send(dict(metrics), self._last_step)

    def log_video(self, name: str, path: Path, step: int) -> None:
        """An mp4 that was filmed at `step` env steps."""
        if self._run is not None:
            import wandb  # late: as above

            self._send({name: wandb.Video(str(path), format="mp4")}, max(step, self._last_step))

    def finish(self, exit_code: int = 0) -> None:
        """Ends the wandb run; 0 for a success."""
        if self._run is not None:
            self._run.finish(exit_code=exit_code)

    def _send(self, values: dict[str, Any], step: int) -> None:
        if self._run is not None:
            self._run.log(values, step=step)


def _start(mode: Mode, settings: Mapping[str, Any], timeout_s: float) -> Any:
    import wandb  # late: it takes a second, and only this logger needs it

    return wandb.init(
        mode=mode,
        resume="allow" if mode == "online" else None,  # offline there is nobody to ask
        reinit="create_new",  # several trainings in one process each have their own
        settings=wandb.Settings(
            console="off",  # train.log has it, and wandb's capture breaks progress bars
            quiet=True,
            disable_git=True,  # provenance.json has it
            init_timeout=timeout_s,
            login_timeout=timeout_s,
            finish_timeout=timeout_s,
        ),
        **settings,
    )


def is_logged_in() -> bool | None:
    """Whether wandb finds credentials, without asking anybody for them; None where that cannot be told."""
    try:
        import wandb  # late: as above
        from wandb.sdk.lib import wbauth  # late: as above, and not a public interface

        host = wandb.setup().settings.base_url
        return wbauth.authenticate_session(host=host, source="ksim", prompt=False, update_session=False) is not None
    except Exception:  # not a public interface
        return None


def _forget() -> None:
    import wandb  # late: as above

    wandb.teardown()  # wandb's service holds on to the id of a run that could not start


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
