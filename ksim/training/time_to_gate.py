"""A training that ends where its policy has passed the task's gate: env steps and seconds of training until then."""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ksim.config.schema import Config
from ksim.evaluation import gate
from ksim.rl.policy import Policy
from ksim.store.status import StatusFile
from ksim.training.progress import duration

log = logging.getLogger(__name__)

_PASSED = "gate/passed"
_IN_A_ROW = 2  # judgements, each of episodes of its own: one alone may be lucky


class TimeToGate:
    """Judges a training by its task's gate, and knows by the log lines alone how far it is.

    Args:
        cfg: the config, its engine resolved.
        seed: of the training.

    Attributes:
        is_passed: whether the gate has been passed twice in a row.
        num_conditions: of the gate.
    """

    def __init__(self, cfg: Config, seed: int):
        self.is_passed = False
        self._judge = gate.GateJudge(cfg, seed)
        self.num_conditions = len(self._judge.conditions)
        self._in_a_row = 0
        self._eval_time_s = 0.0

    def recall(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up a stopped training by its log lines."""
        for line in lines:
            self._count(line)

    def judge(self, policy: Policy, curriculum: Mapping[str, Any], step: int) -> dict[str, float]:
        """The numbers of a judgement for a log line, each under `gate/`, and the seconds that this took.

        Args:
            policy, curriculum, step: as for `ksim.evaluation.gate.GateJudge.judge`.
        """
        begin = time.monotonic()
        verdicts = self._judge.judge(policy, curriculum, step)
        is_passed = gate.passed(verdicts)
        log.info("the gate: %s: %s", "passed" if is_passed else "not passed", gate.sentence(verdicts))
        return {_PASSED: float(is_passed), **dict(gate.figures(verdicts)), "eval_time_s": time.monotonic() - begin}

    def look(self, line: Mapping[str, Any], step: int, status: StatusFile) -> dict[str, float]:
        """At a new log line; what it says of the time to the gate, where that is now known.

        Args:
            line: the line.
            step: env steps so far.
            status: hears of it, too.
        """
        self._count(line)
        if not self.is_passed:
            return {}
        time_s = line["wall_time_s"] - self._eval_time_s
        status.passed(step, time_s)
        log.info(
            "the gate was passed twice in a row: the training ends here, after %s steps in %s without evaluations",
            f"{step:,}",
            duration(time_s),
        )
        return {"gate/step": float(step), "gate/time_s": time_s}

    def _count(self, line: Mapping[str, Any]) -> None:
        self._eval_time_s += line.get("eval_time_s") or 0.0
        if line.get(_PASSED) is not None:
            self._in_a_row = self._in_a_row + 1 if line[_PASSED] else 0
            self.is_passed |= self._in_a_row >= _IN_A_ROW
