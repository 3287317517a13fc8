"""Small operations on what E envs carry."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from ksim.envs.carry import EnvCarry, PerEnv


def in_each_env(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes of a method for one env, `(self, env, shared, *args)`, the method for E envs, `(self, carry, *args)`.

    The arguments get an env axis, and so does what it returns; a `PerEnv` there becomes an `EnvCarry` with the same
    shared part.
    """

    @functools.wraps(method)
    def mapped(self: Any, carry: EnvCarry, *args: Any) -> Any:
        def one(env: PerEnv, *args: Any) -> Any:
            return method(self, env, carry.shared, *args)

        def whole(part: Any) -> Any:
            return EnvCarry(part, carry.shared) if isinstance(part, PerEnv) else part

        result = jax.vmap(one)(carry.envs, *args)
        return jax.tree.map(whole, result, is_leaf=lambda part: isinstance(part, PerEnv))

    return mapped


def replace(module: Any, **changes: Any) -> Any:
    """A copy of an Equinox module with some fields changed."""
    return dataclasses.replace(module, **changes)


def with_envs(carry: EnvCarry, **changes: Any) -> EnvCarry:
    """A copy of the carry with some fields of its per-env part changed."""
    return EnvCarry(replace(carry.envs, **changes), carry.shared)


def with_shared(carry: EnvCarry, **changes: Any) -> EnvCarry:
    """A copy of the carry with some fields of its shared part changed."""
    return EnvCarry(carry.envs, replace(carry.shared, **changes))


def env_at(carry: EnvCarry, index: int) -> PerEnv:
    """What one of the envs has for itself."""
    one: PerEnv = jax.tree.map(lambda x: x[index], carry.envs)
    return one


def split_keys(carry: EnvCarry) -> tuple[EnvCarry, PRNGKeyArray]:
    """Advance each env's random stream by one; the drawn keys are (E,)."""
    keys_E2 = jax.vmap(jax.random.split)(carry.envs.key)
    return with_envs(carry, key=keys_E2[:, 0]), keys_E2[:, 1]


def where_env(mask_E: Bool[Array, " E"], new: Any, old: Any) -> Any:
    """Leaf by leaf, `new` in the envs of the mask and `old` in the others."""

    def select(n: Array, o: Array) -> Array:
        return jnp.where(mask_E.reshape(-1, *([1] * (n.ndim - 1))), n, o)

    return jax.tree.map(select, new, old)


def where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Leaf by leaf in one env, `new` where the condition holds; `old` may be missing where it always does."""
    return new if old is None else jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def strong(tree: Any) -> Any:
    """Leaves as arrays of a fixed type: what a loop may carry."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(jnp.asarray(x), jnp.asarray(x).dtype), tree)
