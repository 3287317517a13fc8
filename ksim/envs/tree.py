"""Small operations on states of E envs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from ksim.envs.state import EnvState

# Axes of an `EnvState` for `jax.vmap`: everything is per env, but for what the envs share.
STATE_AXES = EnvState(0, 0, 0, 0, 0, 0, 0, 0, 0, None, None, None)  # type: ignore[arg-type]


def per_env(out_axes: Any = STATE_AXES) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes of a method of one env's state, and of more arrays of that env, the method of E envs.

    Args:
        out_axes: where the env axis goes in what it returns, as for `jax.vmap`.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def mapped(self: Any, state: EnvState, *args: Array) -> Any:
            in_axes = (STATE_AXES, *([0] * len(args)))
            return jax.vmap(functools.partial(method, self), in_axes=in_axes, out_axes=out_axes)(state, *args)

        return mapped

    return decorate


def replace(module: Any, **changes: Any) -> Any:
    """A copy of an Equinox module with some fields changed."""
    return dataclasses.replace(module, **changes)


def split_keys(state: EnvState) -> tuple[EnvState, PRNGKeyArray]:
    """Advance each env's random stream by one; the drawn keys are (E,)."""
    keys_E2 = jax.vmap(jax.random.split)(state.key)
    return replace(state, key=keys_E2[:, 0]), keys_E2[:, 1]


def where_env(mask_E: Bool[Array, " E"], new: Any, old: Any) -> Any:
    """Leaf by leaf, `new` in the envs of the mask and `old` in the others."""

    def select(n: Array, o: Array) -> Array:
        return jnp.where(mask_E.reshape(-1, *([1] * (n.ndim - 1))), n, o)

    return jax.tree.map(select, new, old)


def where_fresh(mask_E: Bool[Array, " E"], fresh: EnvState, state: EnvState) -> EnvState:
    """A state with fresh episodes in the envs of the mask; the others, and what all envs share, as they are."""
    shared = {name: getattr(state, name) for name, axis in vars(STATE_AXES).items() if axis is None}
    no_shared = dict.fromkeys(shared)
    return replace(where_env(mask_E, replace(fresh, **no_shared), replace(state, **no_shared)), **shared)


def where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Leaf by leaf in one env, `new` where the condition holds; `old` may be missing where it always does."""
    return new if old is None else jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def strong(tree: Any) -> Any:
    """Leaves as arrays of a fixed type: what a loop may carry."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(jnp.asarray(x), jnp.asarray(x).dtype), tree)
