"""One process at a time: a lock on a folder, which the system frees when its holder dies."""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ksim.errors import KsimError
from ksim.store import files
from ksim.system import foreign

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2


class InUse(KsimError):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold(folder: Path, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Holds the lock of a folder for as long as the context is open.

    Args:
        folder: one that exists.
        wait: is told once who holds the lock, and then the lock is waited for; None: a held lock is an error.

    Raises:
        InUse: naming the pid and the host of the holder, in this process or another.
        KsimError: the folder cannot be used.
    """
    path = folder / ".lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise KsimError(f"{folder} cannot be used: {error.strerror}") from None
    try:
        told = False
        while not _taken(fd, folder):
            if wait is None:
                raise InUse(f"{folder} is in use by {_holder(path)}; one process at a time may own it")
            if not told:
                wait(f"{folder} is in use by {_holder(path)}")
                told = True
            time.sleep(_LOOK_AGAIN_S)
        owner = {"pid": os.getpid(), "host": files.host(), "since": files.now()}
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(owner).encode(), 0)
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)  # the file itself stays: removing it would let two processes lock two files
    finally:
        os.close(fd)


def _taken(fd: int, folder: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some cluster file systems are mounted without locks; a run there is better than none.
        log.warning("%s cannot be locked (%s); make sure that no other process uses it", folder, error)
    return True


def _holder(path: Path) -> str:
    try:
        found = foreign.parse_json(path.read_bytes())
        return f"process {found['pid']} on {found['host']} (since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
