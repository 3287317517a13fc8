"""The conditions of a task's gate, as configs to evaluate with."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ksim.config import compose, gate
from ksim.config.gate import Bound
from ksim.config.overrides import held_command
from ksim.config.schema import Config
from ksim.envs.check import check_task
from ksim.errors import ConfigError

_checked: set[str] = set()  # what `check` has looked through: a run's config is composed, and checked, twice


@dataclass(frozen=True)
class Condition:
    """A condition, ready to be played.

    Attributes:
        name: in the task's YAML.
        overrides: of the task.
        cfg: with these.
        bounds: of the figures that come out.
    """

    name: str
    overrides: Sequence[str]
    cfg: Config
    bounds: Sequence[Bound]

    @property
    def most_falls(self) -> float | None:
        """The largest share of falls that the bounds allow; None where they allow any."""
        return min((b.at_most for b in self.bounds if b.figure == "falls" and b.at_most is not None), default=None)


def conditions(cfg: Config) -> list[Condition]:
    """The conditions of a config's gate, in their order; none where its task has no gate.

    Raises:
        ConfigError: for the first mistake in them, naming its YAML path and what would be right.
    """
    found = []
    for name, condition in gate.conditions(cfg.task.gate).items():
        path = f"{gate.PATH}.conditions.{name}"
        bare = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, gate=None))
        try:
            overrides = [held_command(override, cfg.task.commands) for override in condition.overrides]
            changed = compose.with_overrides(bare, overrides)
            check_task(changed.task)
        except ConfigError as error:
            raise ConfigError(f"{path}.overrides: {error} ({path}=null removes this condition)") from error
        found.append(Condition(name, condition.overrides, changed, gate.bounds(condition, changed.task, path)))
    return found


def check(cfg: Config) -> None:
    """Look through a config's gate, and at what `eval` says about it.

    Raises:
        ConfigError: for the first mistake, naming its YAML path and what would be right.
    """
    if (text := compose.freeze(cfg)) in _checked:
        return
    wanted = [name for name in ("gate", "stop_at_gate") if getattr(cfg.eval, name)]
    if not conditions(cfg) and wanted:
        raise ConfigError(f"eval.{wanted[0]}: the task has no gate; task.gate.conditions would say what good is")
    if cfg.eval.stop_at_gate and cfg.eval.interval_steps is None:
        raise ConfigError(
            "eval.stop_at_gate: the gate is judged every eval.interval_steps, and that is null; give it a number"
        )
    _checked.add(text)
