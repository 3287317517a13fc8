"""Nested mappings as YAML paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings and lists with its path: "algo.actor_hidden.0" -> 128."""
    if isinstance(node, Mapping | list | tuple):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def paths(node: Any, path: str = "") -> Iterator[str]:
    """The path of every key of nested mappings."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        inner = f"{path}.{key}" if path else str(key)
        yield inner
        yield from paths(value, inner)


def differences(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Where two trees differ: path -> the value of each, None where it has none."""
    left, right = dict(_values(a)), dict(_values(b))
    paths = sorted(path for path in left.keys() | right.keys() if left.get(path) != right.get(path))
    return {path: (left.get(path), right.get(path)) for path in paths}


def _values(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """As `leaves`, a list being one value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _values(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


_ABSENT = object()


def get(node: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path of nested mappings; the default where there is none."""
    for key in path.split("."):
        node = node.get(key, _ABSENT) if isinstance(node, Mapping) else _ABSENT
        if node is _ABSENT:
            return default
    return node


def put(node: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path; mappings on the way are made."""
    *parents, last = path.split(".")
    for key in parents:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[last] = value


def delete(node: dict[str, Any], path: str) -> None:
    """Remove the value at a dotted path, if it is there."""
    parent, _, last = path.rpartition(".")
    found = get(node, parent) if parent else node
    if isinstance(found, dict):
        found.pop(last, None)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the values of `above` where both have one."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged
