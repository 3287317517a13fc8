"""Calling a term, so that what goes wrong in it is told with the term's place in the config."""

import inspect
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ksim.config.words import shown
from ksim.envs.calling import at, construct
from ksim.envs.carry import Memory
from ksim.envs.context import Context
from ksim.envs.terms import Term
from ksim.envs.tree import strong
from ksim.errors import ConfigError


def call(term: Term, ctx: Context, *args: Any) -> tuple[Any, Memory]:
    """The term's value, and what it remembers from now on; empty for a term without memory.

    Raises:
        ConfigError: what went wrong in the term, with its YAML path in front; a memory that changes its shape.
    """
    with at(term):
        function = bound(term, ctx)
        if not term.has_memory:
            return function(ctx, *args), {}
        before = ctx.memory[term.path]
        value, after = value_and_memory(function(ctx, *args, before))
        return value, {term.path: _same_shape(after, before)}


def init_memory(terms: Iterable[Term], ctx: Context) -> Memory:
    """The first memory of those terms that have one; the env is in the first state of an episode."""
    memory = {}
    for term in terms:
        if term.has_memory:
            with at(term):
                memory[term.path] = strong(bound(term, ctx).init(ctx))
    return memory


def bound(term: Term, ctx: Context) -> Any:
    """The term with its parameters, those that curricula set as they are now."""
    driven = {name: ctx.curriculum(value) for name, value in term.driven.items()}
    driven.pop("weight", None)  # a setting of rewards
    return construct(term, **driven)


def parameter(term: Term, name: str) -> Any:
    """A parameter's value: what the task gives, else the function's default."""
    return term.params[name] if name in term.params else inspect.signature(term.func).parameters[name].default


def call_scalar(term: Term, ctx: Context) -> tuple[Float[Array, ""], Memory]:
    """`call` for a term whose value must be a number.

    Raises:
        ConfigError: the value is something else.
    """
    value, memory = call(term, ctx)
    with at(term):
        return as_array(value, "a scalar", (0,), ctx.qpos.dtype), memory


def call_bool(term: Term, ctx: Context) -> tuple[Bool[Array, ""], Memory]:
    """`call` for a term whose value must be true or false; a number is neither (what would NaN be?).

    Raises:
        ConfigError: the value is something else.
    """
    value, memory = call(term, ctx)
    with at(term):
        verdict = as_array(value, "true or false", (0,))
        if verdict.dtype != bool:
            raise ConfigError(f"must return true or false for one env, not a number of type {verdict.dtype}")
        return verdict, memory


def call_vector(term: Term, ctx: Context) -> tuple[Float[Array, " n"], Memory]:
    """`call` for a term whose value must be a vector; a scalar is one of length 1.

    Raises:
        ConfigError: the value is something else.
    """
    value, memory = call(term, ctx)
    with at(term):
        return jnp.atleast_1d(as_array(value, "a vector", (0, 1), ctx.qpos.dtype)), memory


def as_array(value: Any, what: str, dimensions: tuple[int, ...] | None = None, dtype: DTypeLike | None = None) -> Array:
    """What a term has returned for one env, as an array.

    Args:
        value: what it has returned.
        what: what it must be, in words.
        dimensions: how many it may have; None for any number.
        dtype: of the array; None for the value's own.

    Raises:
        ConfigError: it is no array, or one of other dimensions.
    """
    try:
        array = jnp.asarray(value, dtype)
    except (TypeError, ValueError):
        raise ConfigError(f"must return {what} for one env, not {shown(value, null='None')}") from None
    if dimensions is not None and array.ndim not in dimensions:
        raise ConfigError(f"must return {what} for one env, not an array of shape {array.shape}")
    return array


def value_and_memory(result: Any) -> tuple[Any, Any]:
    """The two things that a term with memory returns.

    Raises:
        ConfigError: it returned something else.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise ConfigError("has an 'init', so it has memory, and must return (value, memory)")
    return result


def _same_shape(after: Any, before: Any) -> Any:
    """The new memory, of exactly the type that a loop carries."""

    def shapes(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(jnp.shape(x), jnp.asarray(x).dtype.kind) for x in leaves]

    if shapes(after) != shapes(before):
        show = jax.tree.map(lambda x: f"{jnp.asarray(x).dtype}{list(jnp.shape(x))}", (before, after))
        raise ConfigError(f"its memory must keep the shape that 'init' gave it: {show[0]}, not {show[1]}")
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), after, before)
