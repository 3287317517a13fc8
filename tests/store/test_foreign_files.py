"""Files that somebody else wrote, with a right checksum and bad intent: told in a line, and nothing else happens."""

import hashlib
import io
import json
import os
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ksim.errors import KsimError
from ksim.report import runs
from ksim.store import checkpoint, manifest, metrics, run_dir, status, tree_file
from ksim.store.checkpoint import CheckpointError
from ksim.store.tree_file import TreeError

INFO = {"dtype": {}, "key": {}, "scalar": {}}
DEEP = b"[" * 200_000


def npy(array: np.ndarray, **how: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **how)
    return stream.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "descr": descr, "fortran_order": False})
    return stream.getvalue()


def npz(*entries: tuple[str, bytes], info: Any = INFO, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, warnings.catch_warnings(action="ignore"):
        for name, data in entries:
            archive.writestr(name, data)
        archive.writestr("__ksim__.npy", npy(np.array(info if isinstance(info, str) else json.dumps(info))))
    return stream.getvalue()


def larger_than_it_is(data: bytes) -> bytes:
    """The archive's directory says that its first entry has 3 GB."""
    at = data.index(b"PK\x01\x02")
    size = (3 * 2**30).to_bytes(4, "little")
    return data[: at + 20] + size + size + data[at + 28 :]


def encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + b"\x01\x00" + data[at + 10 :]


def overlapping(data: bytes, times: int) -> bytes:
    """An archive whose directory lists one entry many times, under other names."""
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x01\x02", start + 1)
    entry, rest = data[start:end], data[end:]
    more = b"".join(entry.replace(b"x.npy", b"%c.npy" % (65 + i)) for i in range(times))
    tail = rest.index(b"PK\x05\x06")
    total = (times + 2).to_bytes(2, "little")
    size = (len(entry) * (times + 1) + tail).to_bytes(4, "little")
    eocd = rest[tail : tail + 8] + total + total + size + rest[tail + 16 :]
    return data[:end] + more + rest[:tail] + eocd


class Pickled:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("pwned"),)


X = ("x.npy", npy(np.zeros(4)))
CRAFTED: dict[str, tuple[bytes, str]] = {
    "deflated": (npz(("x.npy", npy(np.zeros(10**7))), method=zipfile.ZIP_DEFLATED), "compressed"),
    "bzipped": (npz(X, method=zipfile.ZIP_BZIP2), "compressed"),
    "larger than it is": (larger_than_it_is(npz(X)), "larger than the file"),
    "encrypted": (encrypted(npz(X)), "encrypted"),
    "overlapping": (overlapping(npz(("x.npy", npy(np.zeros(100_000)))), 20), "larger than the file|[Oo]verlap"),
    "a header that asks for memory": (npz(("x.npy", npy_header((10**12,)))), r"float64\[1000000000000\] does not fit"),
    "a negative shape": (npz(("x.npy", npy_header((-2, -2)) + bytes(32))), "no readable tree file"),
    "pickled": (npz(("x.npy", npy(np.array([Pickled()], object), allow_pickle=True))), "object is not one of ksim's"),
    "a record": (npz(("x.npy", npy(np.zeros(1, "f4,O")[["f0"]]))), "not one of ksim's"),
    "twice": (npz(X, ("x.npy", npy(np.ones(4)))), "two entries 'x.npy'"),
    "no array": (npz(("x.npy", b"PK")), "no readable tree file"),
    "deep info": (npz(X, info=DEEP.decode()), "nested too deeply"),
    "info of another kind": (npz(X, info=[1]), "no readable tree file"),
    "an object by its name": (npz(X, info=INFO | {"dtype": {"x": "O"}}), "no type of an array"),
    "a key of another size": (npz(X, info=INFO | {"key": {"x": "fry"}}), "no readable tree file"),
    "a number of many": (npz(X, info=INFO | {"scalar": {"x": "float"}}), "no readable tree file"),
    "an unknown number": (npz(X, info=INFO | {"scalar": {"x": "eval"}}), "no readable tree file"),
    "no archive": (b"PK" * 100, "no readable tree file"),
    "nothing": (b"", "no readable tree file"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_tree_file_is_refused_in_a_line_and_takes_no_memory(name):
    data, message = CRAFTED[name]
    tracemalloc.start()
    try:
        with pytest.raises(TreeError, match=message) as refused:
            tree_file.arrays_from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + 2**23
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value) and not Path("pwned").exists()


def test_the_helpers_make_files_that_are_read():
    """Else what was crafted might be refused for another reason."""
    found = tree_file.arrays_from_bytes(npz(X, ("y.npy", npy_header((2, 2)) + bytes(32))))
    assert found["x"].tolist() == [0.0] * 4 and found["y"].shape == (2, 2)


def checkpoint_of(folder: Path, **changes: Any) -> Path:
    """A checkpoint with another manifest, and the right checksum of that."""
    path = checkpoint.save(folder, 1, {"policy": {"w": np.float32(1)}}, {})
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest |= changes
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": digest}))
    return path


def entry(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@pytest.mark.parametrize("name", ["../../secret.npz", "/etc/hostname", "sub/policy.npz", "policy.npz\n", ".npz", ""])
def test_a_manifest_names_plain_files_only(tmp_path, monkeypatch, name):
    (tmp_path / "secret.npz").write_bytes(b"s")
    path = checkpoint_of(tmp_path / "run" / "checkpoints", files={name: entry(b"s")})
    opened: list[str] = []
    read = checkpoint.foreign.read_regular
    monkeypatch.setattr(
        checkpoint.foreign, "read_regular", lambda file, limit: (opened.append(file.name), read(file, limit))[1]
    )
    (problem,) = checkpoint.verify(path)
    assert "names the file" in problem
    with pytest.raises(CheckpointError, match="names the file"):
        checkpoint.load(path, {})
    assert set(opened) == {"manifest.json"}


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "1"},
        {"step": -1},
        {"step": True},
        {"meta": []},
        {"files": []},
        {"files": {"policy.npz": {"sha256": "", "bytes": "9"}}},
        {"files": {"policy.npz": {"sha256": None, "bytes": 9}}},
        {"files": {"policy.npz": {"bytes": 9}}},
        {"files": {"policy.npz": 3}},
        {"format": None},
    ],
)
def test_a_manifest_of_another_shape_is_damaged(tmp_path, changes):
    path = checkpoint_of(tmp_path, **changes)
    with pytest.raises(CheckpointError, match="manifest.json is damaged"):
        checkpoint.load(path, {})
    with pytest.raises(CheckpointError, match="every checkpoint .* is damaged"):
        checkpoint.newest_valid(tmp_path, print)


def test_a_manifest_that_is_too_deep_or_too_large(tmp_path, monkeypatch):
    path = checkpoint_of(tmp_path)
    (path / "manifest.json").write_bytes(DEEP)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        manifest.read(path)
    with open(path / "manifest.json", "wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(CheckpointError, match="1099511627776 bytes, more than"):
        manifest.read(path)


@pytest.mark.parametrize("kind", ["device", "pipe", "long", "folder"])
def test_a_file_that_is_no_file_or_has_no_end_is_not_read(tmp_path, kind):
    path = checkpoint_of(tmp_path)
    (path / "policy.npz").unlink()
    if kind == "device":
        (path / "policy.npz").symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path / "policy.npz")
    elif kind == "folder":
        (path / "policy.npz").mkdir()
    else:
        with open(path / "policy.npz", "wb") as file:
            file.truncate(2**40)
    (problem,) = checkpoint.verify(path)
    assert "policy.npz is too long" in problem if kind == "long" else "policy.npz cannot be read" in problem


def test_json_without_end_anywhere_in_a_run_ends_no_report(tmp_path):
    run = run_dir.RunDir(tmp_path / "runs" / "a" / "2026-01-01_00-00-00")
    (run.eval / "final").mkdir(parents=True)
    for path in (run.status_path, run.provenance_path, run.metrics_path, run.eval / "final" / "metrics.json"):
        path.write_bytes(DEEP + b"\n")
    run.config_path.write_text("name: a\nseed: 1\n")
    with pytest.raises(KsimError, match="nested too deeply"):
        status.read(run.status_path)
    assert metrics.read(run.metrics_path, str) == []
    found = runs.read(run.path)
    assert found.state == "unknown" and found.commit is None and found.remarks
    assert run_dir.open("latest", tmp_path / "runs").path == run.path.resolve()
    (run.checkpoints).mkdir()
    (run.checkpoints / "best.json").write_bytes(DEEP)
    with pytest.raises(CheckpointError, match="best.json is damaged"):
        checkpoint.read_best(run.checkpoints)
