"""The command line of the entry points beside the training: options of the form key=value, and config overrides."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import yaml

from ksim.config.values import convert
from ksim.config.words import hint, listed
from ksim.errors import ConfigError

T = TypeVar("T")


def parse(
    cls: type[T], argv: Sequence[str], prefixes: Sequence[str] = (), keys: Sequence[str] = ()
) -> tuple[T, list[str]]:
    """Options of an entry point.

    Args:
        cls: a dataclass: its fields are the options; one without a default must be given.
        argv: the command line, `key=value` each. The value of a field annotated `str` is taken as it stands.
        prefixes: what the keys of config overrides start with, such as "task.".
        keys: first parts of the config's keys, where any of it may be overridden: whatever has several parts, or
            begins with + or ~, is an override then.

    Returns:
        The options, and the overrides as they are.

    Raises:
        ConfigError: an argument is neither, or a value does not fit.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    overrides = []
    for argument in argv:
        key, equals, text = argument.partition("=")
        if _is_override(key, prefixes, keys):
            overrides.append(argument)
        elif not equals:
            near = hint(key.strip("-"), [*fields, *keys]) if key.startswith("-") else ""
            raise ConfigError(f"{argument}: is not an option of the form key=value{near}; see --help")
        elif key not in fields:
            overrides_too = [*(f"{prefix}<path>" for prefix in prefixes), *(["the config's keys"] if keys else [])]
            others = f", and {', '.join(overrides_too)}" if overrides_too else ""
            near = hint(key, [*fields, *keys]) or f" (there are {listed(fields)}{others})"
            raise ConfigError(f"{key}: no such option{near}")
        else:
            given[key] = convert(_value(text, hints[key]), hints[key], key)
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise ConfigError(f"{name}: is missing; write {name}=<{field.metadata.get('shown', 'value')}>")
    return cls(**given), overrides


def _is_override(key: str, prefixes: Sequence[str], keys: Sequence[str]) -> bool:
    path = key.lstrip("+~")
    if path.startswith(tuple(prefixes)):
        return True
    return bool(keys) and not key.startswith("-") and (path != key or path in keys or not path.isidentifier())


def _value(text: str, expected: Any) -> Any:
    if expected is str:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
