"""A deterministic evaluation now and then during a training: it decides which checkpoint is the best."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from ksim.config.schema import EvalCfg
from ksim.envs.env import Env
from ksim.envs.managers.curriculum import levels
from ksim.evaluation import evaluate as evaluation
from ksim.evaluation.episodes import Episodes
from ksim.rl.policy import Policy
from ksim.store import checkpoint
from ksim.store.checkpoint import Best
from ksim.store.run_dir import RunDir

log = logging.getLogger(__name__)

_SCORE = "eval/return"


_LARGEST_SHARE = 0.1  # of the time of a training on an accelerator that evaluations during it may take


class Judge:
    """Plays the same full episodes each time, on a random stream that neither training nor `ksim.eval` draws from.

    Attributes:
        best: the best checkpoint so far; None before the first judgement.
        interval_steps: env steps of training between two judgements; None: there are none.
    """

    def __init__(self, env: Env, num_envs: int, cfg: EvalCfg, seed: int, run_dir: RunDir, evaluations: int = 1):
        """Judge the policies of a training.

        Args:
            env: the task.
            num_envs: of the training.
            cfg: how often, and how many episodes.
            seed: of the training.
            run_dir: where its checkpoints are.
            evaluations: how many there are at each judgement, this one included.
        """
        self.best: Best | None = None
        self.interval_steps = cfg.interval_steps
        if self.interval_steps is not None and jax.default_backend() != "cpu":
            # There, time follows the steps that are made one after the other, however many envs make them at once.
            least = math.ceil(evaluation.num_steps_of(env) / _LARGEST_SHARE) * num_envs * evaluations
            self.interval_steps = max(self.interval_steps, least)
        self._best_level: dict[str, float] = {}  # of the curricula, where the best was judged
        self._step_dt = env.step_dt
        self._checkpoints = run_dir.checkpoints
        self._play = evaluation.player(env, cfg.interval_episodes, seed, purpose="judge")

    def recall(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up a stopped training: the best of the checkpoints that are still there, by its log lines."""
        kept = set(checkpoint.steps(self._checkpoints))
        for line in lines:
            if line["step"] in kept and line.get(_SCORE) is not None and self.is_best(line):
                self._take(line["step"], line)
        checkpoint.write_best(self._checkpoints, self.best)

    def is_due(self, before: int, step: int) -> bool:
        """Whether a multiple of the interval lies between two numbers of env steps; it does not depend on the end."""
        return self.interval_steps is not None and step // self.interval_steps > before // self.interval_steps

    def judge(self, policy: Policy, curriculum: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a policy for a log line, each under `eval/`, and the seconds that this took.

        Args:
            policy: the policy.
            curriculum: how far the curricula have come; they stay there.
        """
        begin = time.monotonic()
        return self.numbers(self._play(policy, curriculum), curriculum, begin)

    def numbers(self, played: Episodes, curriculum: Mapping[str, Any], begin: float) -> dict[str, float]:
        """As `judge`, of episodes that were played.

        Args:
            played: on the host.
            curriculum: as for `judge`.
            begin: when it began, by the monotonic clock, s.
        """
        summary = evaluation.summarize(played, self._step_dt)
        log.info("deterministic policy: %s", evaluation.sentence(summary))
        summary |= {f"curriculum/{name}": value for name, value in levels(curriculum).items()}
        return {f"eval/{name}": value for name, value in summary.items()} | {"eval_time_s": time.monotonic() - begin}

    def is_best(self, numbers: Mapping[str, float]) -> bool:
        """Whether a judgement beats all before it; NaN beats nothing.

        Where a curriculum has moved on, returns are of another task: what came before is then beaten.
        """
        is_comparable = self.best is not None and _level(numbers) == self._best_level
        return numbers[_SCORE] > (self.best.score if self.best and is_comparable else float("-inf"))

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        """Point to the checkpoint of this step as the best."""
        self._take(step, numbers)
        checkpoint.write_best(self._checkpoints, self.best)

    def _take(self, step: int, numbers: Mapping[str, float]) -> None:
        self.best = Best(step, numbers[_SCORE])
        self._best_level = _level(numbers)


def _level(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if name.startswith("eval/curriculum/")}
