"""A policy against its task's gate: each condition is played, and each figure held against its bound."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from ksim.config.gate import Bound
from ksim.config.schema import Config
from ksim.envs.env import Env, make_env
from ksim.evaluation import evaluate as evaluation
from ksim.evaluation.conditions import Condition, conditions
from ksim.evaluation.episodes import evaluate_until
from ksim.rl.policy import Policy
from ksim.rl.streams import random_key
from ksim.system.jit import jit

GATE = "gate.json"


@dataclass(frozen=True)
class Verdict:
    """A condition that was played.

    Attributes:
        condition: its name.
        overrides: of the task.
        bounds: what was asked for.
        summary: of its episodes, as `ksim.evaluation.evaluate.Result.summary`.
    """

    condition: str
    overrides: Sequence[str]
    bounds: Sequence[Bound]
    summary: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return all(self.holds(bound) for bound in self.bounds)

    def value(self, bound: Bound) -> float:
        """The figure that a bound is about; NaN where it was not measured."""
        return self.summary.get(bound.figure, math.nan)

    def holds(self, bound: Bound) -> bool:
        """Whether one bound holds."""
        return bound.holds(self.value(bound))


def make(condition: Condition) -> Env:
    """The env of a condition."""
    physics = condition.cfg.physics
    return make_env(condition.cfg.task, physics.engine, physics.threads)


def play(
    cfg: Config, policy: Policy, curriculum: Mapping[str, Any] | None, seed: int, tell: Callable[[str], object]
) -> list[Verdict]:
    """Play each condition in full, with the random stream of `ksim.eval`.

    Args:
        cfg: the config, its engine resolved.
        policy: the policy.
        curriculum: how far the curricula of its training have come; they stay there.
        seed: of the episodes.
        tell: hears what is being played.
    """
    assert cfg.task.gate is not None  # there are conditions
    verdicts = []
    for condition in conditions(cfg):
        tell(f"playing {cfg.task.gate.episodes} episodes of the gate's condition {condition.name}")
        env = make(condition)
        played = evaluation.player(env, cfg.task.gate.episodes, seed)(policy, fitting(env, curriculum))
        summary = evaluation.summarize(played, env.step_dt)
        verdicts.append(Verdict(condition.name, condition.overrides, condition.bounds, summary))
    return verdicts


def fitting(env: Env, curriculum: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The curricula of a training, where they are all that a condition's env knows; else None: they begin there."""
    known = {term.path for term in env.curriculum.terms.values()}
    return curriculum if curriculum and known <= set(curriculum) else None


def record(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What `gate.json` says of the conditions."""
    return {
        "passed": passed(verdicts),
        "conditions": {
            verdict.condition: {
                "passed": verdict.passed,
                "overrides": list(verdict.overrides),
                "bounds": [
                    dataclasses.asdict(bound) | {"value": verdict.value(bound), "passed": verdict.holds(bound)}
                    for bound in verdict.bounds
                ],
                "summary": dict(verdict.summary),
            }
            for verdict in verdicts
        },
    }


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Whether all of them passed."""
    return all(verdict.passed for verdict in verdicts)


def sentence(verdicts: Sequence[Verdict]) -> str:
    """The figures and their bounds in one line."""
    parts = []
    for verdict in verdicts:
        for bound in verdict.bounds:
            sign = "" if verdict.holds(bound) else " FAILS"
            parts.append(f"{verdict.condition} {bound.label} {bound.shown(verdict.value(bound))} ({bound}){sign}")
    return ", ".join(parts)


class GateJudge:
    """Judges a training's policy by its task's gate, on fresh episodes each time.

    A condition is over as soon as more have fallen than its bounds allow, and the first that fails ends the
    judgement: a policy that is far from the gate costs little.

    Args:
        cfg: the config, its engine resolved.
        seed: of the training.

    Attributes:
        conditions: of the task's gate.
    """

    def __init__(self, cfg: Config, seed: int):
        assert cfg.task.gate is not None  # the config is checked
        self._episodes = cfg.task.gate.episodes
        self.conditions = conditions(cfg)
        self._key = random_key(seed, "gate")
        self._players: dict[str, tuple[Env, Callable[..., Any]]] = {}  # compiled when first needed

    def judge(self, policy: Policy, curriculum: Mapping[str, Any] | None, step: int) -> list[Verdict]:
        """The conditions that were played, up to the first that failed.

        Args:
            policy: the policy.
            curriculum: how far the curricula have come; they stay there.
            step: env steps so far, from which the random stream of this judgement follows.
        """
        key = jax.random.fold_in(self._key, step)
        verdicts: list[Verdict] = []
        for condition in self.conditions:
            env, player = self._player(condition)
            played = player(policy, key, fitting(env, curriculum))
            verdicts.append(Verdict(condition.name, condition.overrides, condition.bounds, played))
            if not verdicts[-1].passed:
                break
        return verdicts

    def _player(self, condition: Condition) -> tuple[Env, Callable[..., Mapping[str, float]]]:
        if condition.name not in self._players:
            env, share = make(condition), condition.most_falls
            most_falls = math.floor(self._episodes * (1.0 if share is None else share) + 1e-9)
            steps = evaluation.num_steps_of(env)
            until = partial(evaluate_until, env, num_envs=self._episodes, num_steps=steps, most_falls=most_falls)
            program = jit(until, name=f"gate_{condition.name}", filtered=True)

            def play(policy: Policy, key: PRNGKeyArray, curriculum: Mapping[str, Any] | None) -> dict[str, float]:
                ends, is_whole = jax.device_get(program(policy, key, curriculum=curriculum))
                summary = evaluation.summarize(ends, env.step_dt)
                return summary if is_whole else {"falls": summary["falls"]}  # so many at least

            self._players[condition.name] = env, play
        return self._players[condition.name]


def figures(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, float]]:
    """Each bounded figure of a judgement for a log line: `gate/<condition>/<figure>`."""
    for verdict in verdicts:
        for bound in verdict.bounds:
            if not math.isnan(verdict.value(bound)):
                yield f"gate/{verdict.condition}/{bound.figure.removeprefix('metric/')}", verdict.value(bound)
