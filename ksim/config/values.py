"""Values from YAML against Python annotations, and the words of the messages where they do not fit."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ksim.config.fields import limits
from ksim.config.words import choices, hint, shown
from ksim.errors import ConfigError


def parameters(func: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that a config may give to a target, annotations evaluated, and whether it takes any others.

    A function's are its keyword-only arguments (what comes before is the env's to give), a class's all of its own.
    """
    arguments = inspect.signature(func).parameters.values()
    found = {
        p.name: p.replace(annotation=_annotation(func, p))
        for p in arguments
        if p.kind is inspect.Parameter.KEYWORD_ONLY
        or (p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and inspect.isclass(func))
    }
    return found, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in arguments)


def _annotation(func: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The evaluated annotation; Any where there is none or it exists for the type checker only."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    owner: Any = func
    if inspect.isclass(func):  # a field may be inherited from a class of another module
        owner = next((c for c in func.__mro__ if parameter.name in vars(c).get("__annotations__", {})), func)
    try:
        return eval(annotation, dict(vars(sys.modules[owner.__module__])))
    except Exception:  # names that are imported under TYPE_CHECKING, for example
        return Any


def build(cls: type, given: Mapping[str, Any], path: str, places: Mapping[str, str] | None = None) -> Any:
    """An instance of a dataclass from the config's values.

    Args:
        cls: the dataclass; a ValueError of its `__post_init__` becomes a message with the path.
        given: field -> value.
        path: where `given` stands in the config, for messages; "" for the config itself.
        places: field -> where its value stands, where that is elsewhere.

    Raises:
        ConfigError: for an unknown key, a missing field, a wrong type, or a value that its field or the class refuses.
    """

    def at(key: str) -> str:
        return (places or {}).get(key) or (f"{path}.{key}" if path else key)

    fields = settings_of(cls)
    for key in given:
        if key not in fields:
            raise ConfigError(f"{at(str(key))}: no such key{hint(str(key), fields) or choices(fields)}")
    for name, field in fields.items():
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_required and name not in given:
            raise ConfigError(f"{path}: '{name}' is missing" if path else f"{name}: is missing")
    hints = typing.get_type_hints(cls)
    values = {key: convert(value, hints[key], at(key)) for key, value in given.items()}
    for key, value in values.items():
        limits(fields[key]).check(value, at(key))
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def settings_of(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass that a config gives: all but those that it computes."""
    return {f.name: f for f in dataclasses.fields(cls) if f.init}


class _Mismatch(Exception):
    pass


def convert(value: Any, expected: Any, path: str) -> Any:
    """The value as the annotated type: 1 becomes 1.0 and a list a tuple where that is what is asked for.

    Annotations that mean nothing to YAML, such as array types, accept everything.

    Raises:
        ConfigError: naming `path`, where the value does not fit.
    """
    try:
        return _convert(value, expected, path)
    except _Mismatch:
        raise ConfigError(f"{path}: must be {describe(expected)}, not {shown(value)}") from None


def _convert(value: Any, expected: Any, path: str) -> Any:
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin is typing.Annotated:
        return _convert(value, args[0], path)
    if origin in (typing.Union, types.UnionType):
        for option in sorted(args, key=lambda a: a is not type(value)):  # 1 stays an int in `float | int`
            try:
                return _convert(value, option, path)
            except _Mismatch:
                continue
        raise _Mismatch
    if origin is Literal:
        return _accept(any(value == a and type(value) is type(a) for a in args), value)
    if expected is None or expected is types.NoneType:
        return _accept(value is None, value)
    if expected in (bool, str):
        return _accept(isinstance(value, expected), value)
    if expected is int:
        return _accept(isinstance(value, int) and not isinstance(value, bool), value)
    if expected is float:
        return float(_accept(isinstance(value, int | float) and not isinstance(value, bool) and value == value, value))
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        if isinstance(value, expected):
            return value
        return build(expected, _accept(isinstance(value, Mapping), value), path)
    kind = origin or expected
    if kind in (list, tuple, Sequence):
        items = list(_accept(isinstance(value, Sequence) and not isinstance(value, str), value))
        if kind is tuple and args and args[-1] is not Ellipsis:
            _accept(len(items) == len(args), value)
            return tuple(_convert(item, arg, path) for item, arg in zip(items, args, strict=True))
        items = [_convert(item, args[0] if args else Any, path) for item in items]
        return items if kind is list else tuple(items)
    if kind in (dict, Mapping):
        key_type, value_type = args or (Any, Any)
        pairs = _accept(isinstance(value, Mapping), value).items()
        return {_convert(k, key_type, path): convert(v, value_type, f"{path}.{k}") for k, v in pairs}
    return value


def _accept(fits: bool, value: Any) -> Any:
    if not fits:
        raise _Mismatch
    return value


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", types.NoneType: "null"}


def describe(expected: Any) -> str:
    """An annotation in words: "a list of 2 numbers or null"."""
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin is typing.Annotated:
        return describe(args[0])
    if isinstance(expected, type) and expected in _PLAIN:
        return _PLAIN[expected]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    kind = origin or expected
    if kind is tuple and args and args[-1] is not Ellipsis:
        items = {_PLAIN.get(a, "a value").removeprefix("a ") for a in args}
        return f"a list of {len(args)} {items.pop() + 's' if len(items) == 1 else 'values'}"
    if kind in (list, tuple, Sequence):
        return f"a list of {_PLAIN[args[0]].removeprefix('a ')}s" if args and args[0] in _PLAIN else "a list"
    return "a mapping"


def plain(node: Any) -> Any:
    """Dataclasses and tuples as YAML has them."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        node = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    return [plain(item) for item in node] if isinstance(node, list | tuple) else node
