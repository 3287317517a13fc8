"""Calling a term, so that what goes wrong in it is told with the term's place in the config."""

from typing import Any

from ksim.envs.terms import Term
from ksim.errors import ConfigError


def call(term: Term, *args: Any) -> Any:
    """`term.func(*args, **term.params)`.

    Raises:
        ConfigError: the term's own, with the term's YAML path in front.
    """
    try:
        return term.func(*args, **term.params)
    except ConfigError as error:
        if str(error).startswith("task."):
            raise
        raise ConfigError(f"{term.path}: {error}") from None


def call_scalar(term: Term, *args: Any) -> Any:
    """`call` for a term whose value must be a scalar.

    Raises:
        ConfigError: the value has another shape.
    """
    value = call(term, *args)
    shape = getattr(value, "shape", ())
    if shape != ():
        raise ConfigError(f"{term.path}: must return a scalar for one env, not an array of shape {shape}")
    return value
