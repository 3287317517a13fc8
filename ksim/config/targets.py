"""What a `_target_` in YAML names: terms and algorithms are found by their dotted path, with no registration."""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections.abc import Callable
from typing import Any

from ksim.config.words import hint, in_words
from ksim.errors import ConfigError
from ksim.system.trust import TARGET


def locate(target: Any, path: str) -> Callable[..., Any]:
    """The function or class at a dotted path.

    Args:
        target: the dotted path, or (from Python) the function or class itself.
        path: where the `_target_` stands in the config, for messages.

    Raises:
        ConfigError: saying which part of the dotted path does not exist, or why its module cannot be imported.
    """
    if callable(target):
        return target
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{path}: '{TARGET}' must be a dotted path such as ksim.mdp.rewards.alive, not {target!r}")
    first, *rest = target.split(".")
    if not rest:
        raise ConfigError(f"{path}: '{TARGET}' must name a module and a function in it, not {target!r}")
    found: Any = _import(first, path)
    if found is None:
        raise ConfigError(f"{path}: there is no module '{first}'{hint(first, _top_level_modules())}")
    where = first
    for part in rest:
        if hasattr(found, part):
            found = getattr(found, part)
        else:
            module = _import(f"{where}.{part}", path) if hasattr(found, "__path__") else None
            if module is None:
                raise ConfigError(f"{path}: {where} has no '{part}'{hint(part, _members(found))}")
            found = module
        where = f"{where}.{part}"
    if not callable(found):
        raise ConfigError(f"{path}: {target} is neither a function nor a class")
    return found


def _import(module: str, path: str) -> types.ModuleType | None:
    """The module, or None where it does not exist; any other failure of its import is the user's to see."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return None
        raise ConfigError(f"{path}: importing {module} failed: {in_words(error)}") from error


def _members(found: Any) -> list[str]:
    names = [n for n in dir(found) if not n.startswith("_")]
    return names + [m.name for m in pkgutil.iter_modules(getattr(found, "__path__", []))]


def _top_level_modules() -> list[str]:
    return [m.name for m in pkgutil.iter_modules() if not m.name.startswith("_")]


def target_name(target: Callable[..., Any]) -> str:
    """The dotted path of a function or class."""
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', repr(target))}".lstrip(".")
