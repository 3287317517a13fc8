"""What each manager of an env costs, alone: the parts of `Env.step` on the states of a training, one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs import Env
from ksim.envs.state import EnvState

Part = Callable[[Env, EnvState, Array, Array], Any]  # env, state, action_Ea, key_E -> what the part makes


def _events(env: Env, state: EnvState, action_Ea: Array, key_E: Array) -> Any:
    new = env.fire_events(state, key_E)
    return new.physics.qpos, new.physics.qvel, new.timers, new.model_fields, new.memory


def _actions(env: Env, state: EnvState, action_Ea: Array, key_E: Array) -> Any:
    return env.act(state, action_Ea, key_E)[1]


def _terminations(env: Env, state: EnvState, action_Ea: Array, key_E: Array) -> Any:
    new, *ends = env.end(state, jnp.zeros(len(key_E), bool))
    return ends, new.memory


def _rewards(env: Env, state: EnvState, action_Ea: Array, key_E: Array) -> Any:
    no_E = jnp.zeros(len(key_E), bool)
    new, reward_E, _ = env.judge(state, no_E, no_E, no_E)
    return reward_E, new.episode, new.memory


def _observations(env: Env, state: EnvState, action_Ea: Array, key_E: Array) -> Any:
    terminal = env.observe_end(state, key_E)
    new, obs, _ = env.observe(state, key_E, jnp.zeros(len(key_E), bool))
    return terminal, obs, new.memory


def _resets(env: Env, state: EnvState, action_Ea: Array, key_E: Array) -> Any:
    done_E = state.episode_step % 100 == 0  # a few
    new = env.reset_where(state, done_E, key_E)
    return new.physics, new.episode, new.timers, new.memory, new.model_fields


PARTS: dict[str, tuple[str, Part]] = {
    "events": ("step and interval events", _events),
    "actions": ("controls of every substep", _actions),
    "terminations": ("and contact sensors", _terminations),
    "rewards": ("and metrics", _rewards),
    "observations": ("terminal and next ones, and commands", _observations),
    "resets": ("reset events, without the engine's forward pass", _resets),
}


def record_states(env: Env, state: EnvState, action_TEa: Float[Array, "T E a"]) -> EnvState:
    """The states that actions lead to, (T, ...)."""

    def step(state: EnvState, action_Ea: Array) -> tuple[EnvState, EnvState]:
        state, _ = env.step(state, action_Ea)
        return state, state

    return jax.lax.scan(step, state, action_TEa)[1]


def run_part(part: Part, env: Env, states_T: EnvState, action_TEa: Float[Array, "T E a"]) -> Any:
    """One part in each recorded state; sums of what it makes, so that nothing is left out."""

    def step(carry: None, inputs: tuple[EnvState, Array]) -> tuple[None, Any]:
        state, action_Ea = inputs
        made = part(env, state, action_Ea, state.key)
        return None, [jnp.sum(x) for x in jax.tree.leaves(made) if not _is_key(x)]

    return jax.lax.scan(step, None, (states_T, action_TEa))[1]


def _is_key(x: Array) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
