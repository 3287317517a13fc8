"""An engine over several devices, each of which steps its own envs."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Bool, Float

from ksim.physics.base import Physics, PhysicsState
from ksim.system import mesh


class SpreadPhysics:
    """The engine that it is given, on each device for itself.

    Left to the compiler, every iteration of a solver would ask all devices whether one of them needs another one, and
    the few envs that are reset would be collected from all of them.
    """

    def __init__(self, physics: Physics):
        self._physics = physics

    def step(
        self, state: PhysicsState, model_fields: Mapping[str, Array], ctrl_ESu: Float[Array, "E S nu"]
    ) -> PhysicsState:
        """See `Physics.step`."""
        stepped: PhysicsState = mesh.on_each_device(self._physics.step)(state, dict(model_fields), ctrl_ESu)
        return stepped

    def forward(
        self,
        state: PhysicsState,
        model_fields: Mapping[str, Array],
        ctrl_Eu: Float[Array, "E nu"],
        mask_E: Bool[Array, " E"],
    ) -> PhysicsState:
        """See `Physics.forward`."""
        forward = mesh.on_each_device(self._physics.forward)
        computed: PhysicsState = forward(state, dict(model_fields), ctrl_Eu, mask_E)
        return computed

    def constants(self, model_fields: Mapping[str, Array], mask_E: Bool[Array, " E"]) -> dict[str, Array]:
        """See `Physics.constants`."""
        computed: dict[str, Array] = mesh.on_each_device(self._physics.constants)(dict(model_fields), mask_E)
        return computed

    def __getattr__(self, name: str) -> Any:
        if name == "_physics":  # while it is being copied
            raise AttributeError(name)
        return getattr(self._physics, name)
