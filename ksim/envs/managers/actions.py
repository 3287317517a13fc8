"""From the policy's action to the controls of every substep."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ksim.envs.calling import at, construct
from ksim.envs.carry import Memory
from ksim.envs.context import Context
from ksim.envs.joint_action import JointAction
from ksim.envs.managers.timers import draw_steps, nearest_steps
from ksim.envs.scene import Scene
from ksim.envs.settings import DelayCfg
from ksim.envs.terms import Term
from ksim.errors import ConfigError
from ksim.robots.actuators import Control


class ActionLine(eqx.Module):
    """What is on its way from one action term to its actuators.

    Attributes:
        lag: delay in substeps.
        targets: (K, n) what the newest actions asked for, newest first.
        control: (n,) the low-pass filter's output.
    """

    lag: Int[Array, ""]
    targets: Float[Array, "K n"]
    control: Float[Array, " n"]


class ActionManager:
    """Action terms of one env, concatenated in their order.

    Joints that no term drives hold their home position.

    Attributes:
        size: length of the action.
        control: how each driven joint's actuator is to be built, by joint name.
    """

    def __init__(self, terms: dict[str, Term], scene: Scene, num_substeps: int):
        self.terms = terms
        self.scene = scene
        self.physics_dt = float(scene.model.opt.timestep)
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

    def compute(
        self, ctx: Context, action_a: Float[Array, " a"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "S nu"], Memory]:
        """Controls of each substep, in actuator units, and what is on its way from now on."""
        memory: Memory = {}
        ctrl_u = self._home(ctx)
        targets = self._targets(ctx, action_a)
        for name, target_a in targets.items():
            if not self._has_line(name):
                ctrl_u = ctrl_u.at[self.actions[name].joints_a].set(target_a)
        ctrl_Su = jnp.broadcast_to(ctrl_u, (self.num_substeps, len(ctrl_u)))
        for i, (name, target_a) in enumerate(targets.items()):
            if self._has_line(name):
                path = self.terms[name].path
                control_Sa, memory[path] = self._advance(name, ctx.memory[path], target_a, jax.random.fold_in(key, i))
                ctrl_Su = ctrl_Su.at[:, self.actions[name].joints_a].set(control_Sa)
        return ctrl_Su, memory

    def at_rest(self, ctx: Context) -> Float[Array, " nu"]:
        """Controls of an action of zeros, at once: what an env that has just been reset answers to."""
        ctrl_u = self._home(ctx)
        for name, target_a in self._targets(ctx, jnp.zeros(self.size, ctx.qpos.dtype), at_rest=True).items():
            ctrl_u = ctrl_u.at[self.actions[name].joints_a].set(target_a)
        return ctrl_u

    def init_memory(self, ctx: Context, key: PRNGKeyArray) -> Memory:
        """Delays and filters that start with the controls of an action of zeros."""
        memory: Memory = {}
        rest_u = self.at_rest(ctx)
        for i, (name, term) in enumerate(self.terms.items()):
            if self._has_line(name):
                rest_a = rest_u[self.actions[name].joints_a]
                lag, count = jnp.zeros((), jnp.int32), 1
                if term.settings.delay is not None:
                    lag = self._draw_lag(term.settings.delay, jax.random.fold_in(key, i))
                    longest = nearest_steps(term.settings.delay.range_s[1], self.physics_dt)
                    count += math.ceil(longest / self.num_substeps)
                memory[term.path] = ActionLine(lag, jnp.broadcast_to(rest_a, (count, len(rest_a))), rest_a)
        return memory

    def _home(self, ctx: Context) -> Float[Array, " nu"]:
        return jnp.asarray(self.scene.home_joint_pos[: self.scene.num_actuated], ctx.qpos.dtype)

    def _targets(
        self, ctx: Context, action_a: Float[Array, " a"], at_rest: bool = False
    ) -> dict[str, Float[Array, " n"]]:
        """What each term asks for, in actuator units."""
        targets, start = {}, 0
        for name, action in self.actions.items():
            stop = start + len(action.joints_a)
            own_a = action_a[start:stop]
            if self.terms[name].settings.clip is not None:
                own_a = jnp.clip(own_a, *self.terms[name].settings.clip)
            with at(self.terms[name]):
                targets[name] = action(ctx, own_a, at_rest=at_rest).astype(action_a.dtype)
            start = stop
        return targets

    def _has_line(self, name: str) -> bool:
        settings = self.terms[name].settings
        return settings.delay is not None or settings.low_pass_hz is not None

    def _draw_lag(self, delay: DelayCfg, key: PRNGKeyArray) -> Int[Array, ""]:
        return draw_steps(key, delay.range_s, self.physics_dt, at_least=0)

    def _advance(
        self, name: str, line: ActionLine, target_a: Float[Array, " n"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "S n"], ActionLine]:
        """A term's controls of each substep, late and smoothed."""
        settings = self.terms[name].settings
        lag = line.lag
        if settings.delay is not None and settings.delay.hold_probability < 1.0:
            hold_key, lag_key = jax.random.split(key)
            holds = jax.random.uniform(hold_key) < settings.delay.hold_probability
            lag = jnp.where(holds, lag, self._draw_lag(settings.delay, lag_key))
        targets = jnp.concatenate([target_a[None], line.targets[:-1]])
        # Substep s sees what was asked for `lag` substeps before it: by an action that is so many env steps old.
        substep_S = jnp.arange(self.num_substeps)
        age_S = jnp.maximum(0, -((substep_S - lag) // self.num_substeps))
        control_Sa, control_a = targets[age_S], line.control
        if settings.low_pass_hz is not None:
            gain = 1.0 - math.exp(-2.0 * math.pi * settings.low_pass_hz * self.physics_dt)

            def smooth(last_a: Array, asked_a: Array) -> tuple[Array, Array]:
                now_a = last_a + gain * (asked_a - last_a)
                return now_a, now_a

            control_a, control_Sa = jax.lax.scan(smooth, control_a, control_Sa)
        return control_Sa, ActionLine(lag, targets, control_a)
