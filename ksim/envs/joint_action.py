"""What an action term makes: a map from the policy's numbers to the controls of joints."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ksim.envs.context import Context
from ksim.robots.actuators import Control


@dataclass(frozen=True)
class JointAction:
    """An affine map from action to control: offset + scale * action, clipped.

    A subclass may add what changes with time, in `ahead`.

    Attributes:
        control: what the joints' actuators track: position, velocity or effort.
        joints_a: (a,) which actuated joints, as indices.
        scale_a: (a,) control units per action unit.
        offset_a: (a,) control of a zero action.
        lower_a, upper_a: (a,) bounds of the control.
        relative: the measured joint position is added: the action is a change.
    """

    control: Control
    joints_a: np.ndarray
    scale_a: np.ndarray
    offset_a: np.ndarray
    lower_a: np.ndarray
    upper_a: np.ndarray
    relative: bool = False

    @property
    def law(self) -> str:
        """The map in words, of the attributes' names."""
        middle = "position" if self.relative else "offset"
        return f"target = clip({middle} + scale * action, lower, upper); all other joints: target = home"

    def ahead(self, ctx: Context) -> Float[Array, " a"] | float:
        """What a subclass adds to the control of any action, before the bounds."""
        del ctx
        return 0.0

    def __call__(self, ctx: Context, action_a: Float[Array, " a"], *, at_rest: bool = False) -> Float[Array, " a"]:
        """Controls of the term's joints, in actuator units; at rest, in a state with no memory, without `ahead`."""
        offset_a = ctx.measured_joint_pos[self.joints_a] if self.relative else self.offset_a
        control_a = offset_a + self.scale_a * action_a
        if not at_rest and type(self).ahead is not JointAction.ahead:
            control_a = control_a + self.ahead(ctx)
        control_a = jnp.clip(control_a, self.lower_a, self.upper_a)
        if self.control == "position" and ctx.has_encoder_bias:
            # The actuator tracks what its encoder measures, which is the bias more than where the joint is.
            control_a -= ctx.encoder_bias[self.joints_a]
        return control_a
