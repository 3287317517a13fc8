"""From the policy's action to the controls of every substep."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ksim.envs.context import Context
from ksim.envs.managers.call import at, construct
from ksim.envs.scene import Scene
from ksim.envs.terms import Term
from ksim.errors import ConfigError
from ksim.mdp.actions import JointAction
from ksim.robots.actuators import Control


class ActionManager:
    """Action terms of one env, concatenated in their order.

    Joints that no term drives hold their home position.

    Attributes:
        size: length of the action.
        control: how each driven joint's actuator is to be built, by joint name.
    """

    def __init__(self, terms: dict[str, Term], scene: Scene, num_substeps: int):
        self.scene = scene
        self.num_substeps = num_substeps
        self.actions: dict[str, JointAction] = {}
        self.control: dict[str, Control] = {}
        for name, term in terms.items():
            with at(term):
                action = construct(term)(scene)
            if not isinstance(action, JointAction):
                raise ConfigError(f"{term.path}: must return a JointAction, not {type(action).__name__}")
            for joint in (scene.joint_names[i] for i in action.joints_a):
                if joint in self.control:
                    raise ConfigError(f"{term.path}: joint {joint!r} is already driven by another action term")
                self.control[joint] = action.control
            self.actions[name] = action
        self.size = sum(len(action.joints_a) for action in self.actions.values())

    @property
    def joints_a(self) -> np.ndarray:
        """(a,) which actuated joint each element of the action drives."""
        return np.concatenate([action.joints_a for action in self.actions.values()])

    def __call__(self, ctx: Context, action_a: Float[Array, " a"]) -> Float[Array, "S nu"]:
        """Controls of each substep, in actuator units."""
        ctrl_u = jnp.asarray(self.scene.home_joint_pos[: self.scene.num_actuated], action_a.dtype)
        start = 0
        for action in self.actions.values():
            stop = start + len(action.joints_a)
            ctrl_u = ctrl_u.at[action.joints_a].set(action(ctx, action_a[start:stop]).astype(action_a.dtype))
            start = stop
        return jnp.broadcast_to(ctrl_u, (self.num_substeps, len(ctrl_u)))

    def at_rest(self, ctx: Context) -> Float[Array, " nu"]:
        """Controls of an action of zeros, at once: what an env that has just been reset answers to."""
        return self(ctx, jnp.zeros(self.size, ctx.qpos.dtype))[0]
