"""The words of a message: the nearest name, lists of names, values and errors in one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def hint(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'upright'?)", or nothing where no known name is near."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def choices(names: Iterable[str]) -> str:
    """ " (there are 'a', 'b')"."""
    return f" (there are {listed(names)})" if names else " (there are none)"


def listed(names: Iterable[str]) -> str:
    """Names in quotes, with commas."""
    return ", ".join(f"'{n}'" for n in names)


def shown(value: Any, null: str = "null") -> str:
    """A value as a message shows it, shortened; None as YAML writes it, or as `null` says."""
    if value is None:
        return null
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: object) -> str:
    """A text, or an error's, without its line breaks."""
    return " ".join(str(text).split())


def first_line(text: object) -> str:
    """The first line of a text, or an error's."""
    return str(text).strip().partition("\n")[0]


def in_words(error: BaseException) -> str:
    """An error's type and text, in one line."""
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
