"""A task's gate as its YAML says it: conditions to evaluate under, and bounds of what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ksim.config.overrides import parse_overrides
from ksim.config.schema import GateCfg, ManagerBasedRlEnvCfg
from ksim.config.values import convert
from ksim.config.words import hint, listed
from ksim.errors import ConfigError

PATH = "task.gate"
FIGURES = ("return", "episode_length_s", "falls")  # of every evaluation; besides them, those of the task's metrics


@dataclass(frozen=True, kw_only=True)
class BoundCfg:
    """What a figure's mean over the episodes may be, and its median where it is a metric's; in the figure's unit."""

    at_most: float | None = None
    at_least: float | None = None
    median_at_most: float | None = None
    median_at_least: float | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, name) is None for name in self.__dataclass_fields__):
            raise ValueError(f"bounds nothing; there are {listed(self.__dataclass_fields__)}")

    @property
    def has_median(self) -> bool:
        """Whether it bounds the median."""
        return self.median_at_most is not None or self.median_at_least is not None


@dataclass(frozen=True, kw_only=True)
class ConditionCfg:
    """One way to evaluate a policy, and what it has to come to."""

    overrides: tuple[str, ...] = ()  # of the task, as on the command line of `ksim.eval`
    bounds: dict[str, BoundCfg | None] = field(default_factory=dict)  # by figure: `FIGURES`, or the name of a metric


@dataclass(frozen=True)
class Bound:
    """One bound of a figure.

    Attributes:
        label: the figure in words: "falls", "median drift".
        figure: its name in an evaluation's summary: "falls", "metric/drift/median".
        at_least, at_most: the bound; None where there is none.
    """

    label: str
    figure: str
    at_least: float | None
    at_most: float | None

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound; NaN is not."""
        low, high = self.at_least, self.at_most
        return value == value and (low is None or value >= low) and (high is None or value <= high)

    def __str__(self) -> str:
        """The bound in few characters: "≤ 1 %"."""
        signs = (("≥", self.at_least), ("≤", self.at_most))
        return " and ".join(f"{sign} {self.shown(value)}" for sign, value in signs if value is not None)

    def shown(self, value: float) -> str:
        """A value of the figure: a share as a percentage."""
        return f"{value * 100:.4g} %" if self.figure == "falls" else f"{value:.4g}"


def conditions(gate: GateCfg | None) -> dict[str, ConditionCfg]:
    """The conditions that are not removed, by name; none where there is no gate.

    Raises:
        ConfigError: one of them is not what `ConditionCfg` says.
    """
    found = {}
    for name, given in (gate.conditions if gate is not None else {}).items():
        path = f"{PATH}.conditions.{name}"
        if not str(name).isidentifier():
            raise ConfigError(f"{path}: a condition's name is made of letters, digits and _")
        if given is None:
            continue
        condition: ConditionCfg = convert(given, ConditionCfg, path)
        if not any(bound is not None for bound in condition.bounds.values()):
            raise ConfigError(f"{path}.bounds: there is none; write one such as {{falls: {{at_most: 0.01}}}}")
        for override in parse_overrides(condition.overrides):
            if not override.key_or_group.startswith(("task.", "commands.")):
                raise ConfigError(
                    f"{path}.overrides: {override.input_line}: a condition changes the task: task.<path>=<value> or"
                    " commands.<name>=<value>"
                )
        found[name] = condition
    return found


def bounds(condition: ConditionCfg, task: ManagerBasedRlEnvCfg, path: str) -> list[Bound]:
    """A condition's bounds, in the order of its YAML.

    Args:
        condition: the condition.
        task: with the condition's overrides.
        path: of the condition, for messages.

    Raises:
        ConfigError: an evaluation of the task has no such figure.
    """
    figures = [*FIGURES, *(name for name, term in task.metrics.items() if term is not None)]
    for name, bound in condition.bounds.items():
        place = f"{path}.bounds.{name}"
        if bound is not None and name not in figures:
            raise ConfigError(
                f"{place}: an evaluation has no such figure{hint(name, figures)}; it has {listed(figures)}"
                f" ({place}=null removes the bound, {PATH}=null the gate)"
            )
        if bound is not None and name in FIGURES and bound.has_median:
            raise ConfigError(f"{place}: '{name}' has no median; its bounds are 'at_most' and 'at_least'")
    return list(_bounds(condition))


def _bounds(condition: ConditionCfg) -> Iterator[Bound]:
    for name, bound in condition.bounds.items():
        if bound is None:
            continue
        figure = name if name in FIGURES else f"metric/{name}"
        if bound.at_least is not None or bound.at_most is not None:
            yield Bound(name, figure, bound.at_least, bound.at_most)
        if bound.has_median:
            yield Bound(f"median {name}", f"{figure}/median", bound.median_at_least, bound.median_at_most)


def shown_bounds(task: ManagerBasedRlEnvCfg) -> dict[str, str]:
    """The bounds that a task's gate sets to each figure of a summary, in words: "falls" -> "≤ 1 % (pushed)".

    Those of figures that a condition adds to the task, or that the task has lost, are left out.
    """
    found: dict[str, list[str]] = {}
    for name, condition in conditions(task.gate).items():
        for bound in _bounds(condition):
            found.setdefault(bound.figure, []).append(f"{bound} ({name})")
    return {figure: ", ".join(words) for figure, words in found.items()}
