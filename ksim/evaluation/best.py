"""A deterministic evaluation now and then during a training: it decides which checkpoint is the best."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ksim.envs.managers.curriculum import levels
from ksim.evaluation import evaluate as evaluation
from ksim.store import checkpoint
from ksim.store.checkpoint import Best
from ksim.store.run_dir import RunDir
from ksim.training.experiment import Experiment

log = logging.getLogger(__name__)

_SCORE = "eval/return"


class Judge:
    """Plays the same full episodes each time, on a random stream that neither training nor `ksim.eval` draws from.

    Attributes:
        best: the best checkpoint so far; None before the first judgement.
    """

    def __init__(self, experiment: Experiment, run_dir: RunDir):
        cfg = experiment.cfg
        assert cfg.seed is not None  # the config is checked
        self.best: Best | None = None
        self._best_level: dict[str, float] = {}  # of the curricula, where the best was judged
        self._step_dt = experiment.env.step_dt
        self._interval = cfg.eval.interval_steps
        self._checkpoints = run_dir.checkpoints
        self._play = evaluation.player(experiment, cfg.eval.interval_episodes, cfg.seed, purpose="judge")

    def recall(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up a stopped training: the best of the checkpoints that are still there, by its log lines."""
        kept = set(checkpoint.steps(self._checkpoints))
        for line in lines:
            if line["step"] in kept and line.get(_SCORE) is not None and self.is_best(line):
                self._take(line["step"], line)
        checkpoint.write_best(self._checkpoints, self.best)

    def is_due(self, before: int, step: int) -> bool:
        """Whether a multiple of the interval lies between two numbers of env steps; it does not depend on the end."""
        return self._interval is not None and step // self._interval > before // self._interval

    def judge(self, policy: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a policy for a log line, each under `eval/`."""
        summary = evaluation.summarize(self._play(policy), self._step_dt)
        log.info("deterministic policy: %s", evaluation.sentence(summary))
        summary |= {f"curriculum/{name}": value for name, value in levels(policy.get("curriculum") or {}).items()}
        return {f"eval/{name}": value for name, value in summary.items()}

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
