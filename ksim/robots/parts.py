"""Names as tasks write them: a part of the robot, a regex of whole names, or a list of either.

A term says by its annotation what its names are those of (`joints: Joints = ".*"`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from ksim.config.words import hint
from ksim.errors import ConfigError

Kind = Literal["joint", "body", "geom", "site", "sensor"]

Names = str | tuple[str, ...]
Joints = Annotated[Names, "joint"]
Bodies = Annotated[Names, "body"]
Geoms = Annotated[Names, "geom"]
Sites = Annotated[Names, "site"]

_PLURALS: dict[Kind, str] = {"joint": "joints", "body": "bodies", "geom": "geoms", "site": "sites", "sensor": "sensors"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a robot.yaml calls by one name; each field a regex of whole names, or several."""

    joints: Names = ()
    bodies: Names = ()
    geoms: Names = ()
    sites: Names = ()

    def patterns(self, kind: Kind) -> tuple[str, ...]:
        """The regexes of one kind of name; none where the part has no such names."""
        return as_tuple(getattr(self, _PLURALS[kind], ()))


def as_tuple(names: str | Iterable[str]) -> tuple[str, ...]:
    """One name as several."""
    return (names,) if isinstance(names, str) else tuple(names)


def match(
    wanted: str | Sequence[str],
    names: Sequence[str],
    kind: Kind,
    parts: Mapping[str, Part] | None = None,
    what: str | None = None,
) -> np.ndarray:
    """Which of the names are wanted.

    A word that is the name of a part with names of this kind means that part, even where it is a regex that matches,
    too; any other word is a regex. What is inside a part is always a regex.

    Args:
        wanted: one word or several.
        names: what there is; an empty name is never found.
        kind: what the names are those of.
        parts: the robot's, by name.
        what: in place of `kind`, for messages.

    Returns:
        (n,) indices into `names`, in their order.

    Raises:
        ConfigError: a word matches nothing, or there is no word.
    """
    parts, what = parts or {}, what or kind
    words = as_tuple(wanted)
    if not words:
        raise ConfigError(f"an empty list names no {what}")
    found: set[int] = set()
    for word in words:
        patterns = parts[word].patterns(kind) if word in parts else ()
        ids = {i for pattern in patterns or (word,) for i in _fullmatch(pattern, names, what)}
        if not ids:
            raise ConfigError(_nothing(word, bool(patterns), [name for name in names if name], kind, parts, what))
        found |= ids
    return np.array(sorted(found))


def _fullmatch(pattern: str, names: Sequence[str], what: str) -> list[int]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{what} pattern {pattern!r} is not a regular expression: {error}") from None
    return [i for i, name in enumerate(names) if name and regex.fullmatch(name)]


def _nothing(word: str, is_part: bool, names: Sequence[str], kind: Kind, parts: Mapping[str, Part], what: str) -> str:
    """Why a word names nothing, and what would."""
    fitting = [name for name, part in parts.items() if part.patterns(kind)]
    if is_part:
        start = f"the robot's part {word!r} names no {what} of this model"
    elif word in parts:
        start = f"the robot's part {word!r} has no {_PLURALS[kind]}"
    else:
        start = f"no {what} matches {word!r}{hint(word, [*fitting, *names])}"
    there = f"parts with {_PLURALS[kind]}: {', '.join(fitting)}; " if fitting and not is_part else ""
    return f"{start}; {there}there are: {', '.join(names) or 'none'}"
