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

    def __call__(self, ctx: Context, action_a: Float[Array, " a"]) -> Float[Array, " a"]:
        """Controls of the term's joints, in actuator units."""
        offset_a = ctx.measured_joint_pos[self.joints_a] if self.relative else self.offset_a
        control_a = jnp.clip(offset_a + self.scale_a * action_a, self.lower_a, self.upper_a)
        if self.control == "position" and ctx.has_encoder_bias:
            # The actuator tracks what its encoder measures, which is the bias more than where the joint is.
            control_a -= ctx.encoder_bias[self.joints_a]
        return control_a
