"""`mjx.Data` as C MuJoCo fills it: the fields that an environment reads or writes, and no others."""

from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array

from ksim.errors import ConfigError
from ksim.physics.base import DERIVED_FIELDS, field_shape, float_dtype
from ksim.physics.pool import INPUTS, STATE

# The state goes from step to step with every environment, anything else where one reads or sets it.
FILLED = frozenset(STATE) | frozenset(INPUTS) | DERIVED_FIELDS


class NotFilled(ConfigError, AttributeError):
    """An environment reads a field of `mjx.Data` that C MuJoCo does not fill."""


class Reads:
    """The fields that an environment reads or writes, noted while it is traced."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def used(self) -> tuple[str, ...]:
        """These, and the state."""
        return tuple(sorted(self.names | set(STATE)))


class Data(eqx.Module):
    """One env's state, controls and derived fields, with the names and shapes of `mjx.Data`.

    Attributes:
        fields: by name.
        owner: the environment's name, for messages.
        reads: notes what is read and written; None where that is known.
    """

    fields: dict[str, Array]
    owner: str = eqx.field(static=True)
    reads: Reads | None = eqx.field(static=True, default=None)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            if self.reads is not None:
                self.reads.names.add(name)
            return fields[name]
        raise _no_field(name, self.__dict__.get("owner", ""))

    def replace(self, **changes: Any) -> "Data":
        """The data with some fields changed, as `mjx.Data.replace`."""
        for name, value in changes.items():
            if name not in self.fields:
                raise _no_field(name, self.owner)
            if self.reads is not None:
                self.reads.names.add(name)
            shape = self.fields[name].shape
            if np.shape(value) != shape:
                raise ConfigError(f"{self.owner}: sets mjx.Data.{name} of shape {shape} to one of {np.shape(value)}")
        dtype = float_dtype()
        new = {name: jnp.asarray(value, dtype) for name, value in changes.items()}
        return Data(self.fields | new, self.owner, self.reads)

    def tree_replace(self, params: Mapping[str, Any]) -> "Data":
        """As `replace`, from a mapping."""
        return self.replace(**params)


def blank(model: mujoco.MjModel, names: Iterable[str], owner: str, reads: Reads | None = None) -> Data:
    """The model at rest in `qpos0`, as `mjx.make_data` gives it, derived fields zero."""
    data = mujoco.MjData(model)
    dtype = float_dtype()
    fields = {}
    for name in names:
        if name in STATE or name in INPUTS:
            fields[name] = jnp.asarray(getattr(data, name), dtype)
        else:
            fields[name] = jnp.asarray(np.zeros(field_shape(data, name)), dtype)
    return Data(fields, owner, reads)


def _no_field(name: str, owner: str) -> Exception:
    if name.startswith("__") or name in ("shape", "dtype", "aval", "ndim", "weak_type"):
        return AttributeError(name)  # what JAX asks of anything
    return NotFilled(
        f"task.env: {owner} reads or sets mjx.Data.{name}, which physics=mujoco does not fill; physics=mjx does"
    )
