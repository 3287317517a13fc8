"""Work on a few of many envs at the cost of these few, with shapes that a compiler knows beforehand."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

_CHUNKS = 16  # of a large batch; few envs of thousands are reset in one step
# An accelerator computes so many envs as fast as one. And on a CPU, where the last elements of a batch that is no
# multiple of its vectors may be rounded differently, an env's bits do not depend on its place in a chunk.
_UNIT = 32


def chunk_size(num_envs: int) -> int:
    """How many envs are computed at a time."""
    return min(num_envs, _UNIT * math.ceil(num_envs / (_CHUNKS * _UNIT)))


def where_masked(function: Callable[..., Any], args_E: tuple, mask_E: Bool[Array, " E"], old_E: Any) -> Any:
    """What a function makes of the envs of a mask, and what there was of the others.

    The masked envs are gathered and computed `chunk_size` at a time, in as many chunks as they fill: where none is
    masked, nothing is computed. What an env gets depends neither on the others nor on how many are masked.

    Args:
        function: of one env's arguments; it is mapped over envs.
        args_E: its arguments, leaves of (E, ...).
        mask_E: which envs.
        old_E: of the structure of what the function returns, leaves of (E, ...).
    """
    num_envs = len(mask_E)
    args_E, old_E = jax.tree.map(jnp.asarray, (args_E, old_E))
    size = chunk_size(num_envs)
    if size == num_envs:
        return jax.lax.cond(mask_E.any(), lambda: _where(mask_E, jax.vmap(function)(*args_E), old_E), lambda: old_E)
    num_chunks = math.ceil(num_envs / size)
    masked_first_E = jnp.argsort(~mask_E, stable=True)
    no_env = num_envs  # its result is dropped
    env_E = jnp.where(jnp.arange(num_envs) < mask_E.sum(), masked_first_E, no_env)
    env_CK = jnp.pad(env_E, (0, num_chunks * size - num_envs), constant_values=no_env).reshape(num_chunks, size)

    def chunk(out_E: Any, env_K: Array) -> tuple[Any, None]:
        def compute() -> Any:
            new_K = jax.vmap(function)(*jax.tree.map(lambda x: x.at[env_K].get(mode="clip"), args_E))
            return jax.tree.map(lambda old, new: old.at[env_K].set(new.astype(old.dtype), mode="drop"), out_E, new_K)

        return jax.lax.cond(env_K[0] != no_env, compute, lambda: out_E), None

    return jax.lax.scan(chunk, old_E, env_CK)[0]


def _where(mask_E: Bool[Array, " E"], new_E: Any, old_E: Any) -> Any:
    def select(new: Array, old: Array) -> Array:
        return jnp.where(mask_E.reshape(-1, *([1] * (old.ndim - 1))), new, old)

    return jax.tree.map(select, new_E, old_E)
