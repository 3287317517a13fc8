"""A disk that records what the store does to it, and can be looked at as a crash at any moment would leave it.

A killed process leaves all that it did. A power cut may leave less: what was written to a file since it was last
synced, and the names that were made, moved or removed in a folder since that was last synced, in part or not at all.
"""

import pickle
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ksim.errors import KsimError
from ksim.store import checkpoint, files, metrics, status
from ksim.store.metrics import MetricsWriter
from ksim.store.run_dir import RunDir

Op: TypeAlias = tuple[Any, ...]
Tree: TypeAlias = "dict[str, Tree | bytes]"


@dataclass
class File:
    """Its content now, as it was last synced, and all contents since then."""

    data: bytes = b""
    durable: bytes = b""
    since: list[bytes] = field(default_factory=list)

    def put(self, data: bytes) -> None:
        self.data = data
        self.since.append(data)

    def sync(self) -> None:
        self.durable, self.since = self.data, []


@dataclass
class Folder:
    """Its entries now, as they were last synced, and the changes since then: name -> what it is then, None for gone."""

    entries: "dict[str, File | Folder]" = field(default_factory=dict)
    durable: "dict[str, File | Folder]" = field(default_factory=dict)
    since: "list[dict[str, File | Folder | None]]" = field(default_factory=list)

    def change(self, changes: "dict[str, File | Folder | None]") -> None:
        self.entries = _changed(self.entries, changes)
        self.since.append(changes)

    def sync(self) -> None:
        self.durable, self.since = dict(self.entries), []


def _changed(entries: "dict[str, File | Folder]", changes: "dict[str, File | Folder | None]") -> Any:
    return {name: node for name, node in (entries | changes).items() if node is not None}


class Disk:
    """Takes operations one by one.

    Args:
        folder: what is on it at first, all of it synced.
    """

    def __init__(self, folder: Path) -> None:
        self.root = _read(folder)

    def apply(self, op: Op) -> None:
        """Take an operation that the recorder noted."""
        what, path, *rest = op
        if what == "note":
            return
        parent = self._at(path.parent) if path.parts else self.root
        node = self._at(path)
        match what:
            case "mkdir":
                parent.change({path.name: Folder()})
            case "create":
                if node is None:
                    parent.change({path.name: File()})
                else:
                    node.put(b"")
            case "write":
                node.put(node.data + rest[0])
            case "truncate":
                node.put(node.data[: rest[0]])
            case "sync":
                node.sync()
            case "rename":
                assert rest[0].parent == path.parent
                parent.change({path.name: None, rest[0].name: node})
            case "exchange":
                parent.change({path.name: self._at(rest[0]), rest[0].name: node})
            case "remove":
                parent.change({path.name: None})

    def killed(self) -> Tree:
        """What is there when the process is killed now."""
        return _tree(self.root, lambda node: node.entries if isinstance(node, Folder) else node.data)

    def cut(self, rng: random.Random | None) -> Tree:
        """What is there after a power cut now: nothing that is not synced, or some of it, in the order it came."""

        def left(node: File | Folder) -> Any:
            kept = rng.randint(0, len(node.since)) if rng else 0
            if isinstance(node, File):
                return node.since[kept - 1] if kept else node.durable
            entries = node.durable
            for changes in node.since[:kept]:
                entries = _changed(entries, changes)
            return entries

        return _tree(self.root, left)

    def _at(self, path: Path) -> Any:
        node: Any = self.root
        for part in path.parts:
            node = node.entries.get(part) if node is not None else None
        return node


def _tree(folder: Folder, left: Callable[[Any], Any]) -> Tree:
    return {n: _tree(node, left) if isinstance(node, Folder) else left(node) for n, node in left(folder).items()}


def _read(path: Path) -> Any:
    if path.is_file():
        return File(path.read_bytes(), path.read_bytes())
    entries = {child.name: _read(child) for child in path.iterdir() if not child.is_symlink()}
    return Folder(entries, dict(entries))


def write(tree: Tree, folder: Path) -> None:
    """Put a tree onto the real disk."""
    folder.mkdir()
    for name, content in tree.items():
        if isinstance(content, dict):
            write(content, folder / name)
        else:
            (folder / name).write_bytes(content)


class Recorder:
    """Notes what the store does below `root`, while the context of `patch` lasts; it is done to the real disk, too.

    Attributes:
        ops: the operations, in their order.
        disk: as it was before the first.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.ops: list[Op] = []
        self._before = _read(root)
        for name in ("make_dir", "write_synced", "rename", "exchange", "remove", "remove_tree", "fsync_dir"):
            patch.setattr(files, name, self._noting(getattr(self, f"_{name}"), getattr(files, name)))
        for name in ("__init__", "append", "truncate", "sync"):
            real = getattr(files.AppendedFile, name)
            patch.setattr(files.AppendedFile, name, self._appended(getattr(self, f"_{name.strip('_')}"), real))
        save = checkpoint.save

        def noted_save(folder: Path, step: int, *args: Any) -> Path:
            path = save(folder, step, *args)
            self.ops.append(("note", step))  # from here on, it is promised
            return path

        patch.setattr(checkpoint, "save", noted_save)

    def moments(self) -> Iterator[tuple[int, Disk, int | None]]:
        """Each moment between two operations: its number, the disk, and the step of the last checkpoint so far."""
        disk = Disk.__new__(Disk)
        disk.root = self._before
        saved = None
        for number, op in enumerate(self.ops):
            yield number, disk, saved
            disk.apply(op)
            if op[0] == "note":
                saved = op[1]
        yield len(self.ops), disk, saved

    def _noting(self, note: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(path: Path, *args: Any) -> Any:
            before = list(note(path, *args)) if self._is_below(path) else []
            result = real(path, *args)
            self.ops += before if result is not False else []
            return result

        return noted

    def _appended(self, note: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(file: files.AppendedFile, *args: Any) -> Any:
            path = args[0] if note == self._init else file.path
            before = list(note(path, *args)) if self._is_below(path) else []
            result = real(file, *args)
            self.ops += before
            return result

        return noted

    def _is_below(self, path: Path) -> bool:
        return path.is_relative_to(self.root) and not path.name.startswith((".latest", "latest"))

    def _at(self, path: Path) -> Path:
        return path.relative_to(self.root)

    def _make_dir(self, path: Path) -> Iterator[Op]:
        yield "mkdir", self._at(path)

    def _write_synced(self, path: Path, data: bytes) -> Iterator[Op]:
        yield "create", self._at(path)
        yield "write", self._at(path), data[: len(data) // 2]
        yield "write", self._at(path), data[len(data) // 2 :]
        yield "sync", self._at(path)

    def _rename(self, old: Path, new: Path) -> Iterator[Op]:
        yield "rename", self._at(old), self._at(new)

    def _exchange(self, a: Path, b: Path) -> Iterator[Op]:
        yield "exchange", self._at(a), self._at(b)

    def _remove(self, path: Path) -> Iterator[Op]:
        if path.exists():
            yield "remove", self._at(path)

    def _remove_tree(self, path: Path) -> Iterator[Op]:
        for child in sorted(path.iterdir()) if path.is_dir() else ():
            yield from self._remove_tree(child) if child.is_dir() else self._remove(child)
        yield from self._remove(path)

    def _fsync_dir(self, path: Path) -> Iterator[Op]:
        yield "sync", self._at(path)

    def _init(self, path: Path, *_: Any) -> Iterator[Op]:
        if not path.exists():
            yield "create", self._at(path)

    def _append(self, path: Path, data: bytes) -> Iterator[Op]:
        yield "write", self._at(path), data[: len(data) // 2]
        yield "write", self._at(path), data[len(data) // 2 :]

    def _truncate(self, path: Path, size: int) -> Iterator[Op]:
        yield "truncate", self._at(path), size

    def _sync(self, path: Path) -> Iterator[Op]:
        yield "sync", self._at(path)


def lines_of(run: RunDir) -> dict[int, dict]:
    return {line["step"]: line for line in metrics.read(run.metrics_path, str)}


def check(run: RunDir, saved: int | None, lines: dict[int, dict], damaged: Collection[int] = ()) -> None:
    """What a crash left of a run, and what a resume makes of it.

    Args:
        run: what was left.
        saved: step of the last checkpoint that had been saved.
        lines: the log lines as they were written, by their steps.
        damaged: steps of checkpoints that were damaged before, and that the best may be one of.
    """
    if run.status_path.exists():
        status.read(run.status_path)
    if saved is None:
        if not checkpoint.steps(run.checkpoints):
            return
    else:
        assert run.path.is_dir() and (status.read(run.status_path) is not None)
    newest = checkpoint.newest_valid(run.checkpoints, str)
    assert int(newest.name) >= (saved or 0)
    assert not [step for step in checkpoint.steps(run.checkpoints) if step not in damaged and not _is_whole(run, step)]
    best = checkpoint.read_best(run.checkpoints)
    assert best is None or best.step in damaged or _is_whole(run, best.step)
    checkpoint.find(run.checkpoints, "best", str)

    # A resume, as far as it is the store's: see `ksim.training.loop`.
    checkpoint.clean(run.checkpoints)
    assert checkpoint.newest_valid(run.checkpoints, str) == newest
    assert not [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")]
    step = int(newest.name)
    checkpoint.discard_after(run.checkpoints, step)
    with MetricsWriter(run.metrics_path) as writer:
        writer.truncate_after(step)
    assert lines_of(run) == {s: line for s, line in lines.items() if s <= step}
    assert run.metrics_path.read_bytes().count(b"\n") == len(lines_of(run))


def _is_whole(run: RunDir, step: int) -> bool:
    return not checkpoint.verify(run.checkpoints / str(step))


def everywhere(
    recorder: Recorder,
    folder: Path,
    find: str,
    lines: dict[int, dict],
    before: int | None = None,
    damaged: Collection[int] = (),
) -> None:
    """Checks each moment, after a kill and after some power cuts.

    Args:
        recorder: has recorded a training.
        folder: an empty one, to work in.
        find: where the run directory is, as a pattern.
        lines, damaged: as for `check`.
        before: step of the last checkpoint that was whole before the training.
    """
    seen = set()
    for moment, disk, saved in recorder.moments():
        left = [disk.killed(), disk.cut(None), *(disk.cut(random.Random(f"{moment}-{i}")) for i in range(3))]
        for how, tree in enumerate(left):
            if (key := (pickle.dumps(tree), saved)) in seen:
                continue
            seen.add(key)
            place = folder / f"{moment}-{how}"
            write(tree, place)
            (path,) = list(place.glob(find)) or [place / "nothing"]
            try:
                check(RunDir(path), saved or before, lines, damaged)
            except (AssertionError, KsimError, OSError) as error:
                kind = ("a kill", "a power cut that takes all", "a power cut")[min(how, 2)]
                after = recorder.ops[moment - 1][:2] if moment else "nothing"
                pytest.fail(f"{kind} after operation {moment} of {len(recorder.ops)}, {after}: {error!r}")
            files.remove_tree(place)
