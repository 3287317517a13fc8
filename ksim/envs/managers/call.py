"""Calling a term, so that what goes wrong in it is told with the term's place in the config."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from ksim.envs.context import Context
from ksim.envs.terms import Term, at, construct
from ksim.envs.tree import strong
from ksim.errors import ConfigError


def call(term: Term, ctx: Context, *args: Any) -> Any:
    """The term's value; what a term with memory remembers goes on in `ctx.memory`.

    Raises:
        ConfigError: the term's own, with the term's YAML path in front; a memory that changes its shape.
    """
    with at(term):
        function = bound(term, ctx)
        if not term.has_memory:
            return function(ctx, *args)
        before = ctx.memory[term.path]
        result = function(ctx, *args, before)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ConfigError("has an 'init', so it has memory, and must return (value, memory)")
        value, after = result
        ctx.memory[term.path] = _same_shape(after, before)
        return value


def init_memory(terms: Any, ctx: Context) -> None:
    """Start the memory of those terms that have one; the env is in the first state of an episode."""
    for term in terms:
        if term.has_memory:
            with at(term):
                ctx.memory[term.path] = strong(bound(term, ctx).init(ctx))


def bound(term: Term, ctx: Context) -> Any:
    """The term with its parameters, those that curricula set as they are now."""
    driven = {name: ctx.curriculum(value) for name, value in term.driven.items()}
    driven.pop("weight", None)  # a setting of rewards
    return construct(term, **driven)


def parameter(term: Term, name: str) -> Any:
    """A parameter's value: what the task gives, else the function's default."""
    return term.params[name] if name in term.params else inspect.signature(term.func).parameters[name].default


def call_scalar(term: Term, ctx: Context, *args: Any) -> Any:
    """`call` for a term whose value must be a scalar.

    Raises:
        ConfigError: the value has another shape.
    """
    value = call(term, ctx, *args)
    shape = getattr(value, "shape", ())
    if shape != ():
        raise ConfigError(f"{term.path}: must return a scalar for one env, not an array of shape {shape}")
    return value


def _same_shape(after: Any, before: Any) -> Any:
    """The new memory, of exactly the type that a loop carries."""

    def shapes(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(jnp.shape(x), jnp.asarray(x).dtype.kind) for x in leaves]

    if shapes(after) != shapes(before):
        show = jax.tree.map(lambda x: f"{jnp.asarray(x).dtype}{list(jnp.shape(x))}", (before, after))
        raise ConfigError(f"its memory must keep the shape that 'init' gave it: {show[0]}, not {show[1]}")
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), after, before)
