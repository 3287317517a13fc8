"""What each manager of an env costs, alone: the parts of `Env.step` on the states of a training, one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.carry import EnvCarry
from ksim.envs.env import Env
from ksim.envs.managers.terminations import Ends

Part = Callable[[Env, EnvCarry, Array, Array], Any]  # env, carry, action_Ea, key_E -> what the part makes


def _events(env: Env, carry: EnvCarry, action_Ea: Array, key_E: Array) -> Any:
    envs = env.fire_events(carry, key_E).envs
    return envs.physics.qpos, envs.physics.qvel, envs.timers, envs.model_fields, envs.memory


def _actions(env: Env, carry: EnvCarry, action_Ea: Array, key_E: Array) -> Any:
    return env.compute_controls(carry, action_Ea, key_E)[1]


def _terminations(env: Env, carry: EnvCarry, action_Ea: Array, key_E: Array) -> Any:
    new, ends_E = env.compute_terminations(carry, jnp.zeros(len(key_E), bool))
    return ends_E, new.envs.memory


def _rewards(env: Env, carry: EnvCarry, action_Ea: Array, key_E: Array) -> Any:
    no_E = jnp.zeros(len(key_E), bool)
    ends_E = Ends(no_E, no_E, dict.fromkeys(env.terminations.terms, no_E))
    new, rewards_E = env.compute_rewards(carry, ends_E, no_E)
    return rewards_E.total, new.envs.episode, new.envs.memory


def _observations(env: Env, carry: EnvCarry, action_Ea: Array, key_E: Array) -> Any:
    terminal_obs, _ = env.compute_terminal_observations(carry, key_E)
    new, obs, _ = env.compute_observations(carry, key_E, jnp.zeros(len(key_E), bool))
    return terminal_obs, obs, new.envs.memory


def _resets(env: Env, carry: EnvCarry, action_Ea: Array, key_E: Array) -> Any:
    done_E = carry.envs.episode_step % 100 == 0  # a few
    envs = env.reset_where(carry, done_E, key_E).envs
    return envs.physics, envs.episode, envs.timers, envs.memory, envs.model_fields


PARTS: dict[str, tuple[str, Part]] = {
    "events": ("step and interval events", _events),
    "actions": ("controls of every substep", _actions),
    "terminations": ("and contact sensors", _terminations),
    "rewards": ("and metrics", _rewards),
    "observations": ("terminal and next ones, and commands", _observations),
    "resets": ("reset events, without the engine's forward pass", _resets),
}


def record_states(env: Env, carry: EnvCarry, action_TEa: Float[Array, "T E a"]) -> EnvCarry:
    """The carries that actions lead to, (T, ...)."""

    def step(carry: EnvCarry, action_Ea: Array) -> tuple[EnvCarry, EnvCarry]:
        carry, _ = env.step(carry, action_Ea)
        return carry, carry

    return jax.lax.scan(step, carry, action_TEa)[1]


def run_part(part: Part, env: Env, carry_T: EnvCarry, action_TEa: Float[Array, "T E a"]) -> Any:
    """One part in each recorded carry; sums of what it makes, so that nothing is left out."""

    def step(_: None, inputs: tuple[EnvCarry, Array]) -> tuple[None, Any]:
        carry, action_Ea = inputs
        made = part(env, carry, action_Ea, carry.envs.key)
        return None, [jnp.sum(x) for x in jax.tree.leaves(made) if not _is_key(x)]

    return jax.lax.scan(step, None, (carry_T, action_TEa))[1]


def _is_key(x: Array) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
