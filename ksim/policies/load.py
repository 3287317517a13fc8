"""The policy of a saved run for an env that it fits, and what a training starts from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx

from ksim.envs.env import Env
from ksim.policies import saved
from ksim.rl.policy import Policy
from ksim.store import checkpoint
from ksim.store.checkpoint import CheckpointError
from ksim.store.run_dir import RunDir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What an evaluation plays.

    Attributes:
        policy: the policy.
        curriculum: how far the curricula of its training have come; None where there are none, or not these.
        step: env steps that it was trained for.
    """

    policy: Policy
    curriculum: Mapping[str, Any] | None
    step: int


def load_trained(run: RunDir, which: str, env: Env) -> Trained:
    """The policy of a checkpoint (see `ksim.store.checkpoint.find`), to be played in an env.

    Raises:
        CheckpointError: there is none, or its observations or actions are not the env's.
    """
    while True:
        path = checkpoint.find(run.checkpoints, which, log.warning)
        try:
            found = saved.read(path)
            _check_fits(found, env)
            return Trained(found.policy, _curriculum(path, env), found.step)
        except CheckpointError:
            if path.exists():
                raise  # else the training, which goes on, has just removed it for a newer one


def load_model(run: RunDir, which: str, like: Any) -> tuple[Any, int]:
    """Everything that a training has learned, the field `model` of its state, and its step.

    Args:
        run: the run.
        which: which checkpoint; see `ksim.store.checkpoint.find`.
        like: the model of the training that is to start from it, or its shapes.

    Raises:
        CheckpointError: there is none, or it is not alike.
    """
    path = checkpoint.find(run.checkpoints, which, log.warning)
    found = checkpoint.load(path, {"train_state.model": like})
    return found.trees["train_state.model"], found.step


def _check_fits(found: saved.SavedPolicy, env: Env) -> None:
    """Raises CheckpointError where an env's observations or actions have other sizes than the policy's."""
    seen = {term["name"]: term["size"] for term in found.observation}
    shown = env.obs_sizes.get("actor", {})
    if list(seen.items()) != list(shown.items()):
        terms = ", ".join(sorted(name for name in seen.keys() | shown.keys() if seen.get(name) != shown.get(name)))
        raise CheckpointError(
            f"{found.path} does not fit: its policy sees {sum(seen.values())} elements, this task shows"
            f" {sum(shown.values())} (task.observations.actor.terms: {terms or 'another order'})"
        )
    if len(found.joints) != env.action_size:
        raise CheckpointError(
            f"{found.path} does not fit: its policy's action has {len(found.joints)} elements, this task's"
            f" {env.action_size} (task.actions)"
        )


def _curriculum(path: Path, env: Env) -> Mapping[str, Any] | None:
    """How far the curricula of the env's task had come at a checkpoint; None where it does not know them."""
    if not env.curriculum.terms:
        return None
    try:
        like = eqx.filter_eval_shape(env.curriculum.initial)
        curriculum: Mapping[str, Any] = checkpoint.load(path, {"curriculum": like}).trees["curriculum"]
        return curriculum
    except CheckpointError:
        if not path.exists():
            raise
        log.warning("the checkpoint has other curricula than task.curriculum: they are at their first values here")
        return None
