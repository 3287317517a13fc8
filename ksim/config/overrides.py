"""The overrides of a command line, in Hydra's grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

from ksim.config.words import hint, listed
from ksim.errors import ConfigError

# Flags of K-Scale's earlier ksim, and what does their work here.
_OLD_FLAGS: dict[str, dict[str | None, str]] = {
    "action": {
        "train": "training is what `python -m ksim.run task=<task>` does; leave it out",
        "env": "`python -m ksim.eval run=<run directory>` films a trained policy",
        None: "there is a command for each action: `python -m ksim.run`, `ksim.eval`, `ksim.bench`",
    },
    "pretrained": {
        None: "`python -m ksim.run init_from=<run directory>` starts from a trained policy, "
        "`python -m ksim.eval run=<run directory>` plays it"
    },
    "checkpoint_num": {None: "`python -m ksim.eval run=<run directory> checkpoint=<step>|best|latest` plays one"},
}


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Overrides in Hydra's grammar, one by one.

    Raises:
        ConfigError: naming the one that is none.
    """
    parser = OverridesParser.create()
    parsed = []
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            lines = str(error).strip().split("\nSee https://")[0].split("\n")
            reasons = [line for line in lines if line.strip(" ^") and not line.startswith("Error parsing")]
            reason = next(iter(reasons), "").partition(" expecting ")[0]
            why = f": {reason}" if "=" in override and reason else ""
            raise ConfigError(f"{override}: is not an override of the form key=value{why}") from error
    return parsed


def texts(overrides: ListConfig) -> list[str]:
    """Overrides that a composition keeps in its node `hydra`, as they were written."""
    plain = OmegaConf.to_container(overrides)
    assert isinstance(plain, list)
    return [str(text) for text in plain]


def check_old_flags(keys: Mapping[str, str]) -> None:
    """Refuses the flags of K-Scale's earlier ksim by naming the new command.

    Args:
        keys: overridden key -> value, as text.
    """
    for key, value in keys.items():
        if key in _OLD_FLAGS:
            answers = _OLD_FLAGS[key]
            raise ConfigError(f"{key}={value} is a flag of K-Scale's earlier ksim; {answers.get(value, answers[None])}")


def held_command(option: str, commands: Mapping[str, object]) -> str:
    """The override of the task that `commands.<name>=<value>` stands for; any other override as it is.

    Args:
        option: as on the command line.
        commands: the task's.

    Raises:
        ConfigError: the task has no such command.
    """
    if not option.startswith("commands."):
        return option
    name, _, value = option.removeprefix("commands.").partition("=")
    names = [name for name, term in commands.items() if term is not None]
    if name not in names:
        there = f"there are {listed(names)}" if names else "it has none"
        raise ConfigError(f"commands.{name}: the task has no such command{hint(name, names)}; {there}")
    return f"++task.commands.{name}.fixed={value}"
