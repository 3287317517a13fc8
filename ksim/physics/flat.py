"""An engine under `vmap`: the envs of all members of a population on its one env axis."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float

from ksim.physics.base import Physics, PhysicsState


class FlatPhysics:
    """The engine that it is given, of which `vmap` makes no copies: what it maps over becomes more envs.

    Under `vmap` of its own, each `cond` of an engine would compute both branches and each host callback would run
    once a member. Not differentiable in reverse.
    """

    def __init__(self, physics: Physics):
        self._physics = physics

    def step(
        self, state: PhysicsState, model_fields: Mapping[str, Array], ctrl_ESu: Float[Array, "E S nu"]
    ) -> PhysicsState:
        """See `Physics.step`."""
        stepped: PhysicsState = _flat(self._physics.step)(state, dict(model_fields), ctrl_ESu)
        return stepped

    def forward(
        self,
        state: PhysicsState,
        model_fields: Mapping[str, Array],
        ctrl_Eu: Float[Array, "E nu"],
        mask_E: Bool[Array, " E"],
    ) -> PhysicsState:
        """See `Physics.forward`."""
        computed: PhysicsState = _flat(self._physics.forward)(state, dict(model_fields), ctrl_Eu, mask_E)
        return computed

    def constants(self, model_fields: Mapping[str, Array], mask_E: Bool[Array, " E"]) -> dict[str, Array]:
        """See `Physics.constants`."""
        computed: dict[str, Array] = _flat(self._physics.constants)(dict(model_fields), mask_E)
        return computed

    def __getattr__(self, name: str) -> Any:
        if name == "_physics":  # while it is being copied
            raise AttributeError(name)
        return getattr(self._physics, name)


def _flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function over envs, (E, ...) in all that it takes and returns, which `vmap` over M calls once, with M x E."""

    @custom_vmap
    def call(*args: Any) -> Any:
        return function(*args)

    @call.def_vmap
    def _(num_members: int, is_mapped: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def whole(x: Array, mapped: bool) -> Array:
            x = x if mapped else jnp.broadcast_to(x, (num_members, *x.shape))
            return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

        result = _flat(function)(*jax.tree.map(whole, args, tuple(is_mapped)))
        split = jax.tree.map(lambda x: x.reshape(num_members, len(x) // num_members, *x.shape[1:]), result)
        return split, jax.tree.map(lambda _: True, split)

    mapped: Callable[..., Any] = call
    return mapped
