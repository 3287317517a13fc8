"""A deterministic evaluation now and then during a training: it decides which checkpoint is the best."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ksim import evaluation
from ksim.experiment import Experiment
from ksim.store import checkpoint
from ksim.store.checkpoint import Best
from ksim.store.run_dir import RunDir

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
        self._step_dt = experiment.env.step_dt
        self._interval = cfg.eval.interval_steps
        self._checkpoints = run_dir.checkpoints
        self._play = evaluation.player(experiment, cfg.eval.interval_episodes, cfg.seed, purpose="judge")

    def recall(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up a stopped training: the best of the checkpoints that are still there, by its log lines."""
        kept = set(checkpoint.steps(self._checkpoints))
        judged = [Best(line["step"], line[_SCORE]) for line in lines if line.get(_SCORE) is not None]
        self.best = max((best for best in judged if best.step in kept), key=lambda best: best.score, default=None)
        checkpoint.write_best(self._checkpoints, self.best)

    def is_due(self, before: int, step: int) -> bool:
        """Whether a multiple of the interval lies between two numbers of env steps; it does not depend on the end."""
        return self._interval is not None and step // self._interval > before // self._interval

    def judge(self, policy: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a policy for a log line, each under `eval/`."""
        summary = evaluation.summarize(self._play(policy), self._step_dt)
        log.info("deterministic policy: %s", evaluation.sentence(summary))
        return {f"eval/{name}": value for name, value in summary.items()}

    def is_best(self, numbers: Mapping[str, float]) -> bool:
        """Whether a judgement beats all before it; NaN beats nothing."""
        return numbers[_SCORE] > (self.best.score if self.best else float("-inf"))

    def keep(self, step: int, numbers: Mapping[str, float]) -> None:
        """Point to the checkpoint of this step as the best."""
        self.best = Best(step, numbers[_SCORE])
        checkpoint.write_best(self._checkpoints, self.best)
