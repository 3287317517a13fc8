"""Bounds and choices of a setting, declared on its field: the one place that says them.

``gamma: float = setting(0.98, above=0, at_most=1)`` declares them; `ksim.config.values.build` and `check` hold every
value against them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ksim.config.words import hint, listed
from ksim.errors import ConfigError

_LIMITS = "ksim.limits"
_TRACEABLE = "ksim.traceable"


@dataclass(frozen=True)
class Limits:
    """What the values of a field may be; None is always one where its type allows it.

    Attributes:
        above, at_least, at_most: bounds of a number, or of each number of a list; a bounded number is finite.
        choices: the values that there are.
        or_path: besides the choices, a dotted path to something of the user's own.
        length: of a list.
    """

    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[Any, ...] | None = None
    or_path: bool = False
    length: int | None = None

    def __str__(self) -> str:
        """The bounds in words: "above 0 and at most 1"."""
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least} to {self.at_most}"
        least = f"{self.at_least} or more" if self.at_least is not None else ""
        bounds = [f"above {self.above}" if self.above is not None else least]
        bounds.append(f"at most {self.at_most}" if self.at_most is not None else "")
        return " and ".join(filter(None, bounds))

    def holds(self, number: float) -> bool:
        """Whether a number is within the bounds."""
        return (
            math.isfinite(number)
            and (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
        )

    def check(self, value: Any, path: str) -> None:
        """One value of the right type against the limits.

        Raises:
            ConfigError: naming the path and what would be right.
        """
        if value is None:
            return
        if self.length is not None and len(value) != self.length:
            raise ConfigError(f"{path}: must be a list of {self.length} numbers, not of {len(value)}")
        for where, item in _items(value, path):
            own = self.or_path and "." in str(item)
            if self.choices is not None and item not in self.choices and not own:
                known = listed(self.choices) + (", and dotted paths of your own" if self.or_path else "")
                raise ConfigError(f"{where}: there is no {item!r}{hint(str(item), self.choices)}; there are {known}")
            if str(self) and not self.holds(item):
                finite = "" if math.isfinite(item) else " and finite"
                raise ConfigError(f"{where}: must be {self}{finite}, not {item}")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: Sequence[Any] | None = None,
    or_path: bool = False,
    length: int | None = None,
    traceable: bool = False,
) -> Any:
    """A dataclass field with what its values may be; the arguments are those of `Limits`.

    Args:
        default: its value where none is given; a list is copied. Without it, one must be given.
        above, at_least, at_most, choices, or_path, length: see `Limits`.
        traceable: a number that may be an array inside `jit`, as nothing branches on it in Python: runs in which it
            differs can train in one program.
    """
    limits = Limits(above, at_least, at_most, tuple(choices) if choices is not None else None, or_path, length)
    metadata = {_LIMITS: limits, _TRACEABLE: traceable}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(config: Any, path: str = "") -> None:
    """Every field of a dataclass, and of the dataclasses inside it, against its limits.

    Args:
        config: an instance of a dataclass.
        path: where it stands in the config, for messages.

    Raises:
        ConfigError: for the first value out of its limits: "algo.gamma: must be above 0 and at most 1, not 1.5".
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        where = f"{path}.{field.name}" if path else field.name
        limits(field).check(value, where)
        if dataclasses.is_dataclass(value):
            check(value, where)


def limits(field: dataclasses.Field[Any]) -> Limits:
    """What a field's values may be; everything where it says nothing."""
    found: Limits = field.metadata.get(_LIMITS, Limits())
    return found


def traceable(cls: type) -> set[str]:
    """The names of a dataclass's settings that may be arrays inside `jit`."""
    return {field.name for field in dataclasses.fields(cls) if field.metadata.get(_TRACEABLE)}


def limits_of(cls: type, name: str) -> Limits:
    """The limits of a dataclass's field by its name."""
    (field,) = (f for f in dataclasses.fields(cls) if f.name == name)
    return limits(field)


def _items(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
    else:
        yield path, value
