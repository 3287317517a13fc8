"""Calling a term, so that what goes wrong in it is told with the term's place in the config."""

import inspect
from typing import Any

from ksim.envs.terms import Term
from ksim.errors import ConfigError


def call(term: Term, *args: Any) -> Any:
    """`term.func(*args, **term.params)`; a class is built of the parameters first, and then called.

    Raises:
        ConfigError: the term's own, with the term's YAML path in front; a term with memory, which no manager has yet.
    """
    try:
        if not term.is_class:
            return term.func(*args, **term.params)
        function = term.func(**term.params)
        if hasattr(function, "init"):
            raise ConfigError("terms with memory (with an 'init') are not supported yet")
        return function(*args)
    except ConfigError as error:
        if str(error).startswith("task."):
            raise
        raise ConfigError(f"{term.path}: {error}") from None


def parameter(term: Term, name: str) -> Any:
    """A parameter's value: what the task gives, else the function's default."""
    return term.params[name] if name in term.params else inspect.signature(term.func).parameters[name].default


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
