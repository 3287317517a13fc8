"""What a training looks out for in the numbers of each chunk: what is not finite, and envs that diverged."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ksim.diagnostics import diverged
from ksim.envs.env import Env
from ksim.errors import KsimError
from ksim.rl.algorithm import ENV
from ksim.store.run_dir import RunDir

log = logging.getLogger(__name__)


class TrainingBroke(KsimError):
    """Numbers of the algorithm are not finite any more: from here on, nothing would be learned."""


def check_finite(metrics: Mapping[str, Any], finite: Mapping[str, Any], step: int) -> None:
    """Look at a chunk of the algorithm: its losses and gradients, and every part of its state.

    Args:
        metrics: of the chunk, by log name.
        finite: by part of the state, whether all its numbers are.
        step: env steps so far.

    Raises:
        TrainingBroke: naming what is not finite.
    """
    broken = [f"state.{name}" for name, is_finite in finite.items() if not is_finite]
    broken += [name for name, value in metrics.items() if not name.startswith(ENV) and not math.isfinite(value)]
    if broken:
        raise TrainingBroke(
            f"the training broke before step {step:,}: not finite: {', '.join(broken)}. Nothing of it was saved; the"
            " checkpoints before are whole. A reward or an observation that grows without bound, or too large a"
            " learning rate, can do this"
        )


class Watch:
    """Tells of what terms and the physics broke, once each.

    Args:
        env: the env.
        run: the run directory, where diverged envs are kept.
        num_kept: how many of these it has.
    """

    def __init__(self, env: Env, run: RunDir, num_kept: int):
        self._env = env
        self._run = run
        self._num_kept = num_kept
        self._told: set[str] = set()

    def look(self, line: Mapping[str, Any], state: Callable[[], Any], num_steps: int) -> None:
        """At a log line and the state behind it.

        Args:
            line: the line's numbers.
            state: gives the algorithm's.
            num_steps: env steps that the line is about.
        """
        for name, count in line.items():
            prefix, _, path = name.partition("/")
            if prefix == "not_finite" and path not in self._told:
                self._told.add(path)
                log.warning(
                    "%s was not finite in %d of the last %s env steps and counted as 0 there; metrics.jsonl goes on "
                    "counting in %s",
                    path,
                    count,
                    f"{num_steps:,}",
                    name,
                )
        if line.get("nan_guard"):
            self._keep_diverged(state())

    def _keep_diverged(self, state: Any) -> None:
        """Write the envs that broke the physics, with their model, but for those that were written before."""
        found = jax.device_get(state.env_carry.shared.diverged)
        if found.count > self._num_kept:
            diverged.save(self._run.nan_guard, self._env.scene.model, found, self._num_kept)
            log.warning(
                "envs diverged and were reset; what the physics was given in the first of them is in %s"
                " (README, Troubleshooting: how to replay it)",
                self._run.nan_guard,
            )
        self._num_kept = int(found.count)
