"""What the other processes of a training do: what the first one says, with their own devices; they write nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from ksim.errors import KsimError
from ksim.store.run_dir import RunDir
from ksim.system import jax_setup, processes, trust
from ksim.training.checks import load_checked
from ksim.training.experiment import Experiment, build
from ksim.training.placement import Placement
from ksim.training.state import first_state, load
from ksim.training.stop import StopRequest

# What the first process says, besides its last word: to start JAX, where the run is, how its state begins, and what to
# compute.
START, OPEN, INIT, LOAD, COMPILE = "start", "open", "init", "load", "compile"
TRAIN, GATHER = "train", "gather"


def follow(stop: StopRequest | None = None) -> None:
    """Take part in the training that the first process leads, until it ends.

    Args:
        stop: notes signals, of which the first process is told; it alone decides what follows.

    Raises:
        KsimError: the first process has failed, or is gone.
    """
    stop = stop or StopRequest()
    state: Any = None
    chunk: Any = None
    with stop:
        for word in _until_the_last(stop):
            what = word["word"]
            if what == START:  # the backends of all processes wait for each other
                jax_setup.prepare(word["engine"])
                jax_setup.backend()
            elif what == OPEN:
                run = RunDir(Path(word["run"]))
                with trust.everything():  # the first process has looked
                    experiment = build(load_checked(run.config_path))
                placement = Placement(experiment)
            elif what in (INIT, LOAD):
                state = placement.put(_begin(experiment, placement, run, word))
            elif what == COMPILE:
                chunk = placement.compile_chunk(state)
            elif what == TRAIN:
                state, *_ = jax.block_until_ready(chunk(state))
            elif what == GATHER:
                placement.gather(state)


def _until_the_last(stop: StopRequest) -> Iterator[Mapping[str, Any]]:
    """What is said, but for the last word; between two, signals are passed on."""
    for word in processes.words():
        if word["word"] == processes.FAILED:
            raise KsimError("the first process of the training has failed; its log says why")
        if word["word"] == processes.END:
            return
        yield word
        if stop.signum is not None:
            processes.pass_on(stop.signum)
            stop.signum = None


def _begin(experiment: Experiment, placement: Placement, run: RunDir, word: Mapping[str, Any]) -> Any:
    """The state that the training begins or goes on with."""
    if word["word"] == INIT:
        return first_state(experiment, placement.init)
    return load(experiment, run.checkpoints / str(word["step"]))[0]
