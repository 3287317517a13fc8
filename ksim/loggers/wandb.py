"""Where metrics and videos go besides the run directory: nowhere, or to wandb. Neither can end a training."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from ksim.store import files

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
_NOT_LOGGED_IN = "nobody is logged in to wandb on this machine: run `wandb login`, or set WANDB_API_KEY"


class Logger(Protocol):
    """A listener to a training. Its methods never raise."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Numbers at `step` env steps."""

    def log_video(self, name: str, path: Path, step: int) -> None:
        """An mp4 that was filmed at `step` env steps."""

    def finish(self, exit_code: int = 0) -> None:
        """The run is over; 0 for a success."""


class LocalLogger:
    """Listens to nothing: the files in the run directory are all there is."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None: ...

    def log_video(self, name: str, path: Path, step: int) -> None: ...

    def finish(self, exit_code: int = 0) -> None: ...


class WandbLogger:
    """Sends to Weights & Biases; in `offline` mode into `<run_dir>/wandb`, for a later `wandb sync`.

    The run's id is kept in `<run_dir>/wandb.json`, so that a resume goes on under it; `run_id` overrides it.
    Where wandb fails (not logged in, no network), one warning is logged and the training goes on: an online
    run that cannot start becomes an offline one, anything else is dropped.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        mode: Mode = "online",
        project: str = "ksim",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        timeout_s: float = 60.0,  # for the start, and for the last upload at the end
    ) -> None:
        self.run_id: str | None = None
        self._run: Any = None
        self._last_step = 0
        if mode == "disabled":
            return
        record = run_dir / "wandb.json"
        before = _read(record)
        self.run_id = run_id or before.get("id") or os.urandom(4).hex()

        def start(mode: Mode) -> Any:
            import wandb

            return wandb.init(
                mode=mode,
                id=self.run_id,
                resume="allow" if mode == "online" else None,  # offline there is nobody to ask
                reinit="create_new",  # several trainings in one process each have their own
                dir=run_dir,
                project=project,
                entity=entity,
                group=group,
                name=name or run_dir.name,
                tags=list(tags),
                config=files.jsonable(config or {}),
                settings=wandb.Settings(
                    console="off",  # train.log has it, and wandb's capture breaks progress bars
                    quiet=True,
                    disable_git=True,  # provenance.json has it
                    init_timeout=timeout_s,
                    login_timeout=timeout_s,
                    finish_timeout=timeout_s,
                ),
            )

        if mode == "online" and is_logged_in() is False:
            log.warning("%s; this run is logged offline instead (see `wandb sync`)", _NOT_LOGGED_IN)
            mode = "offline"
        if mode == "online":
            try:
                self._run = start("online")
            except Exception as error:
                log.warning("wandb cannot be reached (%s); this run is logged offline (see `wandb sync`)", error)
                mode = "offline"
                self._guarded(_forget)
        if self._run is None:
            self._guarded(lambda: setattr(self, "_run", start(mode)))
        if self._run is not None:
            found = {"id": self.run_id, "project": project, "entity": entity, "group": group, "mode": mode}
            self._guarded(lambda: files.write_atomic(record, files.json_bytes(found)))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Numbers at `step` env steps; steps may not fall."""
        self._last_step = max(step, self._last_step)
        self._guarded(lambda: self._run.log(dict(metrics), step=self._last_step))

    def log_video(self, name: str, path: Path, step: int) -> None:
        """An mp4 that was filmed at `step` env steps."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Video(str(path), format="mp4")}, step=max(step, self._last_step))

        self._guarded(send)

    def finish(self, exit_code: int = 0) -> None:
        """Ends the wandb run; 0 for a success."""
        self._guarded(lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def _guarded(self, action: Callable[[], object]) -> None:
        if self._run is None and self.run_id is None:
            return
        try:
            action()
        except Exception as error:
            log.warning("wandb failed and is left out from here on: %s", error)
            self._run = None
            self.run_id = None


def is_logged_in() -> bool | None:
    """Whether wandb finds credentials, without asking anybody for them; None where that cannot be told."""
    try:
        import wandb
        from wandb.sdk.lib import wbauth

        host = wandb.setup().settings.base_url
        return wbauth.authenticate_session(host=host, source="ksim", prompt=False, update_session=False) is not None
    except Exception:  # not a public interface
        return None


def _forget() -> None:
    import wandb

    wandb.teardown()  # wandb's service holds on to the id of a run that could not start


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
