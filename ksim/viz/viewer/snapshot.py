"""What a viewer shows of the envs at an instant, and the programs that a simulation runs, which tell it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.envs.carry import EnvCarry, Obs
from ksim.envs.tree import replace, where_env, with_shared
from ksim.rl.policy import Policy
from ksim.viz.viewer.driven_env import HOLD, PULL, REWARDS, DrivenEnv


class State(eqx.Module):
    """All that goes on from step to step: the envs, what the policy sees next, and what it remembers."""

    carry: EnvCarry
    obs: Obs
    memory: Any


class Pose(eqx.Module):
    """E envs as they are now; NumPy arrays in what `Simulation` hands out.

    Attributes:
        qpos, qvel: (E, nq) and (E, nv), as MuJoCo has them.
        ctrl: (E, nu) controls of the last substep: target angle, velocity or torque of each actuated joint.
        torque: (E, j) what actuators do to each joint, N m or N.
        pull: (E, nbody, 6) forces and torques of the viewer on bodies, N and N m.
        episode_step: (E,) env steps since the reset.
        is_suspended: (E,) the base is held in place.
        commands: what terms see of each, by name, (E, n).
    """

    qpos: Float[Array, "E nq"]
    qvel: Float[Array, "E nv"]
    ctrl: Float[Array, "E nu"]
    torque: Float[Array, "E j"]
    pull: Float[Array, "E nbody 6"]
    episode_step: Int[Array, " E"]
    is_suspended: Bool[Array, " E"]
    commands: dict[str, Float[Array, "E n"]]


class Judged(eqx.Module):
    """What the last env step of E envs came to.

    Attributes:
        action: (E, a) the policy's.
        reward: (E,) the sum of the terms.
        rewards: each term's part of it, weighted, by name, (E,).
        ends: each termination's verdict, by name, (E,).
        terminated, truncated: (E,) how the episode ended, if it did; the env has been reset then.
        episode: (E,) the running episode so far, by name, as `ksim.envs.carry.StepOutput.episode`.
        not_finite: how many envs gave no finite value, by the YAML path of a term.
    """

    action: Float[Array, "E a"]
    reward: Float[Array, " E"]
    rewards: dict[str, Float[Array, " E"]]
    ends: dict[str, Bool[Array, " E"]]
    terminated: Bool[Array, " E"]
    truncated: Bool[Array, " E"]
    episode: dict[str, Float[Array, " E"]]
    not_finite: dict[str, Float[Array, ""]]


class Programs:
    """The compiled programs of an env and a policy: each takes a state and returns the next, and what is shown of it.

    They run a step at a time, so they are compiled quickly rather than well. Their results but the state are NumPy.
    """

    def __init__(self, env: DrivenEnv, num_envs: int, policy: Policy | None):
        """Nothing is compiled before its first call; without a policy, actions are zeros."""
        self.env = env
        self.num_envs = num_envs
        self._policy, self._rest = eqx.partition(policy, eqx.is_array)
        self._compile()

    def _compile(self) -> None:
        changes = (self.env.place, self.env.redraw_commands, self.env.renew)
        self._one = _jit(lambda carry, i: EnvCarry(jax.tree.map(lambda x: x[i][None], carry.envs), carry.shared))
        self._begin, self._step, self._restart = _jit(self._begun), _jit(self._stepped), _jit(self._restarted)
        self._place, self._redraw, self._renew = (_jit(partial(self._changed, change)) for change in changes)

    def take(self, policy: Policy, state: State) -> State:
        """Another policy from now on; one of the same shapes compiles nothing."""
        policy_arrays, rest = eqx.partition(policy, eqx.is_array)
        if not eqx.tree_equal(rest, self._rest):
            self._rest = rest
            self._compile()
        self._policy = policy_arrays
        return State(state.carry, state.obs, self._fresh_memory(policy))

    def begin(self, key: PRNGKeyArray, curriculum: Mapping[str, Any] | None) -> tuple[State, Pose]:
        """Fresh episodes in all envs."""
        return _shown(self._begin(self._policy, key, curriculum))

    def step(self, state: State, curriculum: Mapping[str, Any] | None) -> tuple[State, Pose, Judged]:
        """An env step."""
        return _shown(self._step(self._policy, state, curriculum))

    def restart(self, state: State, mask_E: np.ndarray) -> tuple[State, Pose]:
        """Fresh episodes in some envs."""
        return _shown(self._restart(self._policy, state, mask_E))

    def place(self, state: State, qpos_Eq: np.ndarray, qvel_Ev: np.ndarray, mask_E: np.ndarray) -> tuple[State, Pose]:
        """Some envs at other positions and velocities."""
        return _shown(self._place(state, qpos_Eq, qvel_Ev, mask_E))

    def redraw_commands(self, state: State, mask_E: np.ndarray) -> tuple[State, Pose]:
        """Commands drawn anew in some envs."""
        return _shown(self._redraw(state, mask_E))

    def renew(self, state: State) -> tuple[State, Pose]:
        """The same instant after what is remembered was changed."""
        return _shown(self._renew(state))

    def one(self, state: State, index: int) -> EnvCarry:
        """One of the envs as a batch of one, as NumPy: what terms draw from. Without random keys, which stay in JAX."""
        envs, shared = replace(state.carry.envs, key=None), replace(state.carry.shared, key=None, diverged=None)
        found: EnvCarry = jax.device_get(self._one(EnvCarry(envs, shared), index))
        return found

    # What is compiled

    def _begun(self, arrays: Any, key: PRNGKeyArray, curriculum: Mapping[str, Any] | None) -> tuple[State, Pose]:
        carry, obs = self.env.reset(key, self.num_envs, curriculum=curriculum)
        return State(carry, obs, self._fresh_memory(eqx.combine(arrays, self._rest))), self._pose(carry)

    def _stepped(self, arrays: Any, state: State, curriculum: Mapping[str, Any] | None) -> tuple[State, Pose, Judged]:
        policy, memory = eqx.combine(arrays, self._rest), state.memory
        if policy is None:
            action_Ea = jnp.zeros_like(state.carry.envs.action)
        else:
            distribution, memory = policy(state.obs["actor"], memory)
            action_Ea = distribution.mode()
        carry, out = self.env.step(state.carry, action_Ea)
        memory = where_env(out.done, self._fresh_memory(policy), memory)
        if curriculum is not None:
            carry = with_shared(carry, curriculum=curriculum)
        not_finite = {n.removeprefix("not_finite/"): x for n, x in out.log.items() if n.startswith("not_finite/")}
        rewards_E = out.terminal.memory[REWARDS]
        judged = Judged(
            action_Ea, out.reward, rewards_E, out.ends, out.terminated, out.truncated, out.episode, not_finite
        )
        return State(carry, out.obs, memory), self._pose(carry), judged

    def _restarted(self, arrays: Any, state: State, mask_E: Bool[Array, " E"]) -> tuple[State, Pose]:
        carry, obs = self.env.restart(state.carry, state.obs, mask_E)
        memory = where_env(mask_E, self._fresh_memory(eqx.combine(arrays, self._rest)), state.memory)
        return State(carry, obs, memory), self._pose(carry)

    def _changed(self, change: Callable[..., tuple[EnvCarry, Obs]], state: State, *args: Array) -> tuple[State, Pose]:
        carry, obs = change(state.carry, *args)
        return State(carry, obs, state.memory), self._pose(carry)

    def _fresh_memory(self, policy: Policy | None) -> Any:
        """What a policy remembers of episodes that begin."""
        return () if policy is None else policy.init_carry(self.num_envs)

    def _pose(self, carry: EnvCarry) -> Pose:
        envs, scene = carry.envs, self.env.scene
        none_E = jnp.zeros(self.num_envs, bool)
        return Pose(
            qpos=envs.physics.qpos,
            qvel=envs.physics.qvel,
            ctrl=envs.physics.fields["ctrl"],
            torque=envs.physics.fields["qfrc_actuator"][:, scene.joint_dof_adr],
            pull=envs.memory[PULL],
            episode_step=envs.episode_step,
            is_suspended=envs.memory[HOLD].on if HOLD in envs.memory else none_E,
            commands=self.env.commands.values(envs.memory),
        )


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=quick if jax.default_backend() == "cpu" else None)


def _shown(result: tuple[Any, ...]) -> Any:
    """What a program returns, all but the state on the host."""
    state, *shown = result
    return (state, *jax.device_get(tuple(shown)))
