"""Building a term's function, and telling what goes wrong in it with the term's place in the config."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from equinox import EquinoxRuntimeError
from jax.errors import JaxRuntimeError

from ksim.config.words import in_words
from ksim.envs.terms import Term
from ksim.errors import ConfigError, KsimError


def construct(term: Term, **changes: Any) -> Any:
    """The term as a function of what its manager gives: with its parameters, or built of them, where it is a class."""
    params = term.params | changes
    return term.func(**params) if term.is_class else partial(term.func, **params)


@contextmanager
def at(term: Term) -> Iterator[None]:
    """What goes wrong inside is told with the term's place in the config.

    Raises:
        ConfigError: with the YAML path in front; of an error that is not ksim's own, the line of the user's code.
    """
    try:
        yield
    except KsimError as error:
        if str(error).startswith("task."):
            raise
        raise ConfigError(f"{term.path}: {error}") from None
    except (EquinoxRuntimeError, JaxRuntimeError):
        raise  # not from tracing the term, but from running it on values
    except Exception as error:  # a user's term may raise anything
        raise ConfigError(f"{term.path}: {_line_of(error, term.func)}{in_words(error)}") from error


def _line_of(error: Exception, func: Callable[..., Any]) -> str:
    """The deepest line in the package of a term's function, "my_rewards.py:12: "; nothing if the error is not there."""
    module = getattr(func, "__module__", None) or ""
    package = module.rpartition(".")[0] or module
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if f"{frame.f_globals.get('__name__')}.".startswith(f"{package}."):
            path = Path(frame.f_code.co_filename)
            return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}: "
    return ""
