"""Arrays over several devices: what has an axis of envs, or of env states, is split along it; all else is on each.

Programs are the same for any number of devices: at few places they say where an array is to be, which has no effect
on one device, and JAX's compiler does the rest. Where a function is traced within `jax.set_mesh`, there are several.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

ENVS = "envs"  # the only axis of a mesh
_SPLIT, _WHOLE = PartitionSpec(ENVS), PartitionSpec()


def make(devices: Sequence[jax.Device]) -> Mesh:
    """The devices as a mesh."""
    return Mesh(np.array(devices), (ENVS,), axis_types=(AxisType.Auto,))


def is_there() -> bool:
    """Whether what is being traced is for several devices."""
    return not jax.sharding.get_abstract_mesh().empty


def split(tree: Any, axis: int = 0) -> Any:
    """The arrays, of which each device has an equal part along an axis."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(*[None] * axis, ENVS)) if is_there() else tree


def whole(tree: Any) -> Any:
    """The arrays, of which each device has all."""
    return jax.lax.with_sharding_constraint(tree, _WHOLE) if is_there() else tree


def placed(tree: Any, is_split: Any) -> Any:
    """The arrays, each split along its first axis or whole, as a tree of flags says."""
    if not is_there():
        return tree
    return jax.tree.map(lambda x, flag: (split if flag else whole)(x), tree, is_split)


def shardings(mesh: Mesh, is_split: Any) -> Any:
    """As `placed`, for the arguments and results of `jax.jit`."""
    return jax.tree.map(lambda flag: NamedSharding(mesh, _SPLIT if flag else _WHOLE), is_split)


def on_each_device(function: Any) -> Any:
    """A function over envs, (E, ...) in all that it takes and returns, computed on each device for its own envs alone.

    What such a function computes of an env must depend on no other.
    """
    return jax.shard_map(function, in_specs=_SPLIT, out_specs=_SPLIT, check_vma=False)
