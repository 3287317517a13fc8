"""Checkpoints that are whole or absent: `checkpoints/<step>/` with one `.npz` a tree and a manifest of checksums.

A checkpoint is written into `.tmp-<step>-<pid>` beside its place, synced, and renamed. A killed writer leaves
such a folder behind; readers never count it and the next `save` removes it.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ksim.store import files, manifest, tree_file
from ksim.store.manifest import CheckpointError, Manifest
from ksim.store.tree_file import PyTree, TreeError
from ksim.system import foreign

_BEST = "best.json"
_TREE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    path: Path
    manifest: Manifest
    trees: dict[str, PyTree]

    @property
    def step(self) -> int:
        """Env steps when it was written."""
        return self.manifest.step

    @property
    def meta(self) -> dict[str, Any]:
        """What its writer noted besides the trees."""
        return self.manifest.meta


@dataclass(frozen=True)
class Best:
    """Which checkpoint is the best so far."""

    step: int
    score: float


def save(folder: Path, step: int, trees: Mapping[str, PyTree], meta: Mapping[str, Any]) -> Path:
    """Writes `trees` (name -> pytree) as the checkpoint of `step` and returns `folder/<step>`.

    A checkpoint of the same step is replaced. Meant for the one process that owns the run directory: leftovers
    of killed writers are removed first. Raises CheckpointError on a full disk or any other failure to write;
    the checkpoints that were there stay whole, and nothing half-written stays.
    """
    if step < 0:
        raise ValueError(f"step {step} is negative")
    if bad := [name for name in trees if not _TREE_NAME.match(name)]:
        raise ValueError(f"{bad[0]!r} cannot name a tree's file")
    target = folder / str(step)
    temp = folder / f".tmp-{step}-{os.getpid()}"
    try:
        files.make_dirs(folder)
        clean(folder)
        files.make_dir(temp)
        listed = {}
        for name, tree in trees.items():
            data = tree_file.to_bytes(tree)
            files.write_synced(temp / f"{name}.npz", data)
            listed[f"{name}.npz"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        manifest.write(temp, step, listed, meta)
        files.fsync_dir(temp)
        _put(temp, target)
    except (OSError, TreeError) as error:
        files.remove_tree(temp)
        raise CheckpointError(f"checkpoint {target} was not written: {_reason(error)}") from error
    except BaseException:
        files.remove_tree(temp)
        raise
    return target


def clean(folder: Path) -> None:
    """Removes what killed writers left in `folder`. Only for the process that owns the run directory."""
    for path in _hidden(folder, ".old-"):
        # A writer died between the two renames of a replacement: what it moved away is still the checkpoint.
        target = folder / path.name.split("-")[1]
        if target.exists():
            files.remove_tree(path)
        else:
            files.rename(path, target)
    for path in _hidden(folder, ".tmp-"):
        files.remove_tree(path)
    for leftover in folder.glob(f".{_BEST}.tmp-*"):
        files.remove(leftover)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, whole or damaged, in rising order."""
    try:
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.name == str(int(p.name)))
    except FileNotFoundError:
        return []


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the folder of a checkpoint, whole or damaged."""
    return (path / manifest.NAME).is_file()


def verify(path: Path) -> list[str]:
    """What is wrong with the checkpoint `path`, one line per file; nothing where it is whole."""
    return _check(path, {})


def load(path: Path, like: Mapping[str, PyTree], *, alone: bool = False) -> Checkpoint:
    """Reads the trees named in `like` from the checkpoint `path`, after all its checksums were verified.

    A name such as `train_state.model` is that of a part of a tree.

    With `alone`, the files of these trees are enough: the others are not looked at.

    Each value of `like` is a pytree of the same structure, shapes and dtypes (arrays or `jax.ShapeDtypeStruct`);
    what comes back in it: see `tree_file.from_bytes`. Raises CheckpointError that names the damaged file or the
    leaf that does not fit.
    """
    contents = dict.fromkeys((f"{name.partition('.')[0]}.npz" for name in like), b"")
    if problems := _check(path, contents, only=contents if alone else None):
        raise CheckpointError("; ".join(problems))
    found = manifest.read(path)
    trees = {}
    for name, tree in like.items():
        whole, _, part = name.partition(".")
        if f"{whole}.npz" not in found.files:
            raise CheckpointError(f"{path} holds no {whole!r}, only {', '.join(sorted(found.files))}")
        try:
            trees[name] = tree_file.from_bytes(contents[f"{whole}.npz"], tree, part)
        except TreeError as error:
            raise CheckpointError(f"{path / whole}.npz does not fit: {error}") from None
    return Checkpoint(path, found, trees)


def load_arrays(path: Path, name: str) -> dict[str, Any]:
    """The leaves of the tree `name` in the checkpoint `path` by their names, with no tree to fit them into."""
    contents = {f"{name}.npz": b""}
    if problems := _check(path, contents):
        raise CheckpointError("; ".join(problems))
    if not contents[f"{name}.npz"]:
        raise CheckpointError(f"{path} holds no {name!r}")
    try:
        return tree_file.arrays_from_bytes(contents[f"{name}.npz"])
    except TreeError as error:
        raise CheckpointError(f"{path / name}.npz: {error}") from None


def newest_valid(folder: Path, warn: Callable[[str], object]) -> Path:
    """The newest whole checkpoint; `warn` is called with a message for each damaged one that is passed over.

    Raises CheckpointError where there is none.
    """
    found = steps(folder)
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}")
    seen: list[str] = []
    for step in reversed(found):
        problems = verify(folder / str(step))
        if not problems:
            if seen:
                warn(f"using the checkpoint of step {step} instead")
            return folder / str(step)
        warn(f"the checkpoint of step {step} is damaged: {'; '.join(problems)}")
        seen += problems
    raise CheckpointError(f"every checkpoint in {folder} is damaged: {'; '.join(seen)}")


def find(folder: Path, which: str | int, warn: Callable[[str], object]) -> Path:
    """The checkpoint that a user names: a step, `#<n>` (the n-th saved that is kept, from 1), `best` or `latest`.

    `latest`, and `best` where it is damaged or was never judged, fall back as `newest_valid` does; a step that
    was asked for by its number is verified by `load`. Raises CheckpointError that lists what there is.
    """
    found = steps(folder)
    name = str(which)
    if name == "latest" or not found:
        return newest_valid(folder, warn)
    if name == "best":
        try:
            best = read_best(folder)
            problems = verify(folder / str(best.step)) if best else ["none was judged yet"]
            if best and not problems:
                return folder / str(best.step)
        except CheckpointError as error:
            problems = [str(error)]
        warn(f"no best checkpoint: {'; '.join(problems)}; using the newest")
        return newest_valid(folder, warn)
    if re.fullmatch(r"#\d+", name) and 1 <= int(name[1:]) <= len(found):
        return folder / str(found[int(name[1:]) - 1])
    if name.isdecimal() and int(name) in found:
        return folder / str(int(name))
    listed = ", ".join(map(str, found))
    raise CheckpointError(f"there is no checkpoint {name!r} in {folder}; there are: best, latest, {listed}")


def prune(folder: Path, keep: int, protect: Collection[int] = ()) -> list[int]:
    """Removes all but the newest `keep` checkpoints and those of the steps in `protect`; returns what went."""
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    return _remove(folder, [step for step in steps(folder)[:-keep] if step not in protect])


def discard_after(folder: Path, step: int) -> list[int]:
    """Removes the checkpoints of later steps, for a resume from `step`: they belong to a future that is redone.

    Left in place, a damaged one would count as the newest for ever, and `prune` would keep it instead of new ones.
    """
    return _remove(folder, [found for found in steps(folder) if found > step])


def write_best(folder: Path, best: Best | None) -> None:
    """Points to the best checkpoint, or to none. Raises CheckpointError where that cannot be written."""
    try:
        if best is None:
            files.remove(folder / _BEST)
        else:
            files.write_atomic(folder / _BEST, files.json_bytes({"step": best.step, "score": float(best.score)}))
    except OSError as error:
        raise CheckpointError(f"{folder / _BEST} was not written: {_reason(error)}") from error


def read_best(folder: Path) -> Best | None:
    """The best checkpoint's step and score; None where none was judged. Raises CheckpointError if damaged."""
    try:
        found = foreign.parse_json((folder / _BEST).read_bytes())
        score = found["score"]
        return Best(int(found["step"]), float("nan") if score is None else float(score))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / _BEST} is damaged: {error}") from None


def _check(path: Path, contents: dict[str, bytes], only: Collection[str] | None = None) -> list[str]:
    """Verifies every file, or some; those named in `contents` are left there: what was verified is what is used."""
    try:
        listed = manifest.read(path).files
    except CheckpointError as error:
        return [str(error)]
    problems = []
    for name, entry in listed.items():
        if only is not None and name not in only:
            continue
        file = path / name
        try:
            data = foreign.read_regular(file, limit=entry["bytes"])
        except FileNotFoundError:
            problems.append(f"{file} is missing")
            continue
        except OSError as error:
            problems.append(f"{file} cannot be read: {error.strerror}")
            continue
        except ValueError as error:
            problems.append(f"{file} is too long: {error}")
            continue
        if not data and entry["bytes"]:
            problems.append(f"{file} is empty")
        elif len(data) < entry["bytes"]:
            problems.append(f"{file} is truncated ({len(data)} bytes instead of {entry['bytes']})")
        elif hashlib.sha256(data).hexdigest() != entry["sha256"]:
            problems.append(f"{file} is damaged (its checksum does not match)")
        elif name in contents:
            contents[name] = data
    return problems


def _remove(folder: Path, which: list[int]) -> list[int]:
    hidden = []
    for step in which:
        # Renamed first: a removal that is cut short must not leave a checkpoint that looks damaged.
        path = folder / f".tmp-{step}-{os.getpid()}"
        try:
            files.rename(folder / str(step), path)
        except FileNotFoundError:
            continue
        hidden.append(path)
    if hidden:
        files.fsync_dir(folder)
    for path in hidden:
        files.remove_tree(path)
    return which


def _put(temp: Path, target: Path) -> None:
    """Puts `temp` in the place of `target`, which may exist, so that it survives a power cut."""
    old = None
    if not target.exists():
        files.rename(temp, target)
    elif files.exchange(temp, target):
        old = temp
    else:
        old = target.with_name(f".old-{target.name}-{os.getpid()}")
        files.rename(target, old)
        files.rename(temp, target)
    files.fsync_dir(target.parent)
    if old is not None:
        files.remove_tree(old)


def _hidden(folder: Path, prefix: str) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(prefix)]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "the disk is full (or the quota is used up); the older checkpoints are whole"
        return error.strerror or str(error)
    return str(error)
