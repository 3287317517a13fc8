"""A run's config with what an evaluation or a viewer changes in its task."""

from collections.abc import Sequence

from ksim.config import compose
from ksim.config.schema import Config
from ksim.config.words import hint, listed
from ksim.errors import ConfigError
from ksim.training.checks import checked


def changed(cfg: Config, overrides: Sequence[str], engine: str | None = None) -> Config:
    """A run's config with changes to its task, and perhaps on another engine.

    Raises:
        ConfigError: for every mistake in them.
    """
    if engine is not None:
        overrides = [*overrides, f"physics.engine={engine}"]
    return checked(compose.with_overrides(cfg, overrides))


def held_command(option: str, cfg: Config) -> str:
    """The override of the task that `commands.<name>=<value>` stands for.

    Raises:
        ConfigError: the task has no such command.
    """
    name, _, value = option.removeprefix("commands.").partition("=")
    names = [name for name, term in cfg.task.commands.items() if term is not None]
    if name not in names:
        there = f"there are {listed(names)}" if names else "it has none"
        raise ConfigError(f"commands.{name}: the task has no such command{hint(name, names)}; {there}")
    return f"++task.commands.{name}.fixed={value}"
