"""Files that are whole or absent: atomic writes, synced directories, valid JSON."""

import contextlib
import ctypes
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

# All that the store does to the disk is done by these, so that tests can cut between any two of them. -----------------


def make_dir(folder: Path) -> None:
    """Makes a new folder. Raises OSError."""
    folder.mkdir()


def write_synced(path: Path, data: bytes) -> None:
    """Writes a new file and syncs it. Raises OSError."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def rename(old: Path, new: Path) -> None:
    """A file takes the place of what was there; a folder, of an empty one or of nothing. Raises OSError."""
    os.replace(old, new)


def exchange(a: Path, b: Path) -> bool:
    """Swaps two folders in one step, so that no moment is without either; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), ctypes.c_uint(swap)) == 0)


def remove(path: Path) -> None:
    """Removes a file, if it is there. Raises OSError."""
    path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Removes a folder that holds nothing. Raises OSError."""
    folder.rmdir()


def remove_tree(folder: Path) -> None:
    """Removes a folder with all that is in it, as far as that can be done."""
    shutil.rmtree(folder, ignore_errors=True)


def fsync_dir(folder: Path) -> None:
    """Makes renames and new names in `folder` survive a power cut, where the file system can do that."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems refuse to sync a directory
    finally:
        os.close(fd)


class AppendedFile:
    """A file that is added to at its end; made where it is not there. Every method raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)

    def append(self, data: bytes) -> int:
        """Adds some of the bytes, and returns how many."""
        return os.write(self._fd, data)

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        """Cuts the file."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Makes what it holds survive a power cut; a new file's name does after `fsync_dir`."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Closes the file; twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


# What is made of them. ------------------------------------------------------------------------------------------------


def make_dirs(folder: Path) -> None:
    """Makes a folder, and those above it that are missing, so that they survive a power cut. Raises OSError."""
    if not folder.is_dir():
        make_dirs(folder.parent)
        with contextlib.suppress(FileExistsError):  # another process was faster
            make_dir(folder)
        fsync_dir(folder.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes beside `path`, syncs, renames: a reader sees the old content or the new one. Raises OSError."""
    temp = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write_synced(temp, data)
        rename(temp, path)
    except BaseException:
        remove(temp)
        raise
    fsync_dir(path.parent)


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types: NumPy scalars and arrays unpacked, NaN and infinities null, the rest as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return jsonable(np.asarray(value).tolist())
    return str(value)


def json_bytes(value: Any) -> bytes:
    """Readable, valid JSON with a final newline."""
    return (json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n").encode()


def now() -> str:
    """The local time with its offset, ISO 8601, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def host() -> str:
    """This machine's name."""
    return socket.gethostname()


def process_start(pid: int) -> int | None:
    """When `pid` started, in the kernel's clock ticks since boot; None where it is dead or this is not Linux.

    Together with the pid it names a process for good, although pids are reused.
    """
    try:
        # The command name (field 2) may hold spaces and brackets; the fields after it do not.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def process_alive(pid: int, started: int | None = None) -> bool:
    """Whether the process `pid` of this machine runs (and is the one that began at `started`, where given)."""
    if Path("/proc/self/stat").exists():
        found = process_start(pid)
        return found is not None and (started is None or found == started)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_STAMP_FORMAT = "%Y-%m-%d_%H-%M-%S"


def stamp(when: datetime | None = None) -> str:
    """The name of a run directory: local time as YYYY-MM-DD_HH-MM-SS."""
    return (when or datetime.fromtimestamp(time.time())).strftime(_STAMP_FORMAT)


def from_stamp(name: str) -> datetime:
    """The local time that a `stamp` tells. Raises ValueError."""
    return datetime.strptime(name, _STAMP_FORMAT)
