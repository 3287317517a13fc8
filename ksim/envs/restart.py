"""Fresh episodes in some envs between two steps; `Env.step` restarts by itself those that are done."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from ksim.envs.env import Env
from ksim.envs.state import EnvState, Obs
from ksim.envs.tree import STATE_AXES, replace, split_keys, where_env


def restart(
    env: Env, state: EnvState, obs: Obs, mask_E: Bool[Array, " E"], key: PRNGKeyArray | None = None
) -> tuple[EnvState, Obs]:
    """The state with a fresh episode in the envs of the mask, and what the policy sees next.

    The other envs keep every bit of theirs: buffers, timers, commands, random streams and observations. What startup
    events drew stays in all of them.

    Args:
        env: the env.
        state: of E envs.
        obs: their present observations.
        mask_E: which envs.
        key: gives those envs new random streams; None: they go on with their own.
    """
    seeded = state if key is None else replace(state, key=jax.random.split(key, len(mask_E)))
    fresh, reset_key_E = split_keys(seeded)
    fresh, obs_key_E = split_keys(fresh)
    everywhere_E = jnp.ones_like(mask_E)
    fresh = env._reset_where(fresh, everywhere_E, reset_key_E)
    fresh, fresh_obs, _ = env._vmap(env._observe, (STATE_AXES, 0, 0))(fresh, obs_key_E, everywhere_E)
    shared = {"offender": state.offender, "curriculum": state.curriculum}
    no_shared = dict.fromkeys(shared)
    merged = where_env(mask_E, replace(fresh, **no_shared), replace(state, **no_shared))
    return replace(merged, **shared), where_env(mask_E, fresh_obs, obs)
