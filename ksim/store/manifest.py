"""What a checkpoint says about itself: `manifest.json`, with a checksum of each file and one of its own."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ksim.errors import KsimError
from ksim.store import files
from ksim.system import foreign
from ksim.system.versions import version_of

NAME = "manifest.json"
FORMAT = 1
_LIMIT = 16 * 2**20  # bytes; the one of a walking humanoid has some ten thousand
_FILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\.npz\Z")


class CheckpointError(KsimError):
    """A checkpoint that cannot be written, found or read; names the file or leaf and what is wrong with it."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself."""

    step: int  # env steps
    created_at: str  # local time, ISO 8601
    ksim: str | None  # the version that wrote it
    files: dict[str, dict[str, Any]]  # name -> {"sha256": hex, "bytes": size}
    meta: dict[str, Any]  # whatever the writer added, as JSON


def write(path: Path, step: int, listed: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> None:
    """Write the manifest of the checkpoint `path`, synced. Raises OSError.

    Args:
        path: the checkpoint's folder.
        step: env steps.
        listed: see `Manifest.files`.
        meta: see `Manifest.meta`.
    """
    manifest = {
        "format": FORMAT,
        "step": step,
        "created_at": files.now(),
        "ksim": version_of("ksim"),
        "files": listed,
        "meta": files.jsonable(meta),
    }
    files.write_synced(path / NAME, files.json_bytes({**manifest, "sha256": _digest(manifest)}))


def read(path: Path) -> Manifest:
    """The manifest of the checkpoint `path`. Raises CheckpointError where it is missing, damaged or too new."""
    file = path / NAME
    try:
        found = foreign.parse_json(foreign.read_regular(file, _LIMIT))
        checksum = found.pop("sha256")
        version = found["format"]
        if type(version) is not int:
            raise ValueError("it has no format")
        if version > FORMAT:
            raise CheckpointError(f"{path} was written by a newer ksim (checkpoint format {version}, this is {FORMAT})")
        if checksum != _digest(found):
            raise ValueError("its checksum does not match")
        manifest = Manifest(**{name: found[name] for name in Manifest.__dataclass_fields__})
        _check_fields(manifest)
        return manifest
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        size = file.stat().st_size if file.exists() else 0
        why = error if size else "it is empty"
        raise CheckpointError(f"{file} is damaged: {why}") from None


def _check_fields(manifest: Manifest) -> None:
    """Raises ValueError where a manifest is none that `save` writes: a checksum says nothing of who wrote it."""
    if type(manifest.step) is not int or manifest.step < 0 or not isinstance(manifest.meta, dict):
        raise ValueError("it has no step or no description")
    for name, entry in manifest.files.items():
        if not _FILE_NAME.match(name):
            raise ValueError(f"it names the file {name!r}, which is not <tree>.npz in the same folder")
        if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
            raise ValueError(f"what it says of {name} is no size and no checksum")


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
