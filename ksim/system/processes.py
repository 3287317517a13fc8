"""The processes of one training: the first one leads, and the others do what it says.

JAX's coordination service connects them, and where one of them dies it ends the others. What the leader says goes
through that service's store of keys, so that nobody's device waits for a word.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import distributed
from jax._src.clusters.slurm_cluster import SlurmCluster

from ksim.errors import KsimError

END, FAILED = "end", "failed"  # the leader's last word

log = logging.getLogger(__name__)

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_DEAD_AFTER_S = 30  # without a sign of life
_LEAVE_TOGETHER_S = 15  # at the end, so long the first waits for the last
_LOOK_AGAIN_MS = 1000  # Python hears of signals between two looks
_LONGEST_COMPILE_MS = 3_600_000
_WORDS, _SIGNALS, _MEETINGS = "ksim/words/", "ksim/signals/", "ksim/meetings/"


@dataclass(frozen=True)
class _Place:
    """Of one process among all.

    Attributes:
        address: of the first one, "host:port".
        count: how many there are.
        index: of this one.
        devices: those of the node's that it may use; None: all.
    """

    address: str
    count: int
    index: int
    devices: list[int] | None = None


_said = _met = 0  # words and meetings so far


def count() -> int:
    """How many processes train together; 1 where this one is alone."""
    return int(distributed.global_state.num_processes) if distributed.global_state.client is not None else 1


def leads() -> bool:
    """Whether this process is the one that decides, and that writes files."""
    return count() == 1 or distributed.global_state.process_id == 0


@contextlib.contextmanager
def together(*, of_slurm: bool = False) -> Iterator[None]:
    """Join the other processes, if there are any; the leader's leaving this context ends what they do.

    They are found by the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Call it before
    anything touches a device.

    Args:
        of_slurm: the tasks of this process's Slurm job are these processes, too.

    Raises:
        KsimError: the variables say nothing sensible, or the others do not come.
    """
    place = _of_variables() or (_of_slurm() if of_slurm else None)
    if place is None or place.count == 1 or count() > 1:
        yield
        return
    _join(place)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt) or getattr(error, "code", 1) not in (1, 2)
        if not stopped and not leads():  # now, as leaving may end this process before anything is said
            log.error("process %d of the training failed", place.index, exc_info=error)
        say(END if stopped else FAILED)
        raise
    else:
        say(END)
    finally:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # others died: nothing is left to be done with them
            jax.distributed.shutdown()


def say(word: str, **about: Any) -> None:
    """As the leader, tell the others what comes next; they do it in this order. Without effect where there are none."""
    global _said
    if count() == 1 or not leads():
        return
    _client().key_value_set(f"{_WORDS}{_said}", json.dumps({"word": word, **about}))
    _said += 1


def words() -> Iterator[dict[str, Any]]:
    """As another one, what the leader says: `word`, and what else belongs to it.

    Raises:
        KsimError: there is no leader any more.
    """
    number = 0
    while True:
        try:
            said = _client().blocking_key_value_get(f"{_WORDS}{number}", _LOOK_AGAIN_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                continue
            raise KsimError(f"the first process of the training is gone: {error}") from error
        number += 1
        yield json.loads(said)


def meet() -> None:
    """Wait until all processes are here, as after compiling: a program's first run waits for others only briefly."""
    global _met
    if count() > 1:
        _client().wait_at_barrier(f"{_MEETINGS}{_met}", _LONGEST_COMPILE_MS)
        _met += 1


def pass_on(signum: int) -> None:
    """As another one, tell the leader of a signal."""
    _client().key_value_set(f"{_SIGNALS}{distributed.global_state.process_id}", str(signum), allow_overwrite=True)


def heard() -> int | None:
    """As the leader, a signal that another process got since the last call, if one did."""
    if count() == 1:
        return None
    signals = [int(signum) for _, signum in _client().key_value_dir_get(_SIGNALS)]
    if signals:
        _client().key_value_delete(_SIGNALS)
    return max(signals, default=None)


def _client() -> Any:
    return distributed.global_state.client


def _join(place: _Place) -> None:
    logging.getLogger("jax").setLevel(logging.ERROR)  # it warns of each proxy variable
    try:
        jax.distributed.initialize(
            place.address,
            place.count,
            place.index,
            local_device_ids=place.devices,
            cluster_detection_method="deactivate",  # on Slurm, JAX would take one device for each process
            heartbeat_timeout_seconds=_DEAD_AFTER_S,
            shutdown_timeout_seconds=_LEAVE_TOGETHER_S,
        )
    except (RuntimeError, ValueError) as error:
        raise KsimError(
            f"{place.count} processes are to train together, with the first one at {place.address}, and this one"
            f" (number {place.index}) does not find them: {' '.join(str(error).split())}"
        ) from error


def _of_variables() -> _Place | None:
    address, count, index = (os.environ.get(name, "") for name in _VARIABLES)
    if not (address and count):
        return None
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise KsimError(
            f"JAX_PROCESS_ID={index!r} and JAX_NUM_PROCESSES={count!r}: must be the number of this process, from 0, and"
            " how many there are"
        )
    return _Place(address, int(count), int(index))


def _of_slurm() -> _Place | None:
    """The tasks of a Slurm job; those of one node share its GPUs."""
    if not SlurmCluster.is_env_present():
        return None
    cluster = SlurmCluster
    count, index = cluster.get_process_count(), cluster.get_process_id()
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_JOB_NUM_NODES") or 1)
    on_node, local = max(count // nodes, 1), cluster.get_local_process_id() or 0
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    mine = list(range(len(gpus)))[local::on_node] if on_node > 1 and len(gpus) >= on_node else None
    return _Place(cluster.get_coordinator_address(None, None), count, index, mine)
