"""The NaN guard: diverged envs are found and put back, and the first ones of a run are kept."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ksim.envs.state import EnvState, Offenders
from ksim.envs.tree import replace, where_env
from ksim.physics.base import STATE_FIELDS, PhysicsState

BAD_MAGNITUDE = 1e10  # a state this large has diverged, as MuJoCo itself judges (mjMAXVAL)
_NUM_SLOTS = 4


def put_back(state: EnvState, last: EnvState) -> tuple[EnvState, Bool[Array, " E"]]:
    """Put envs whose state is not finite or has diverged back to where they were before the step, and say which.

    Their model fields go back, too: an event that wrote NaN into a mass would otherwise break every later episode.
    """
    ok_E = jnp.ones(state.physics.qpos.shape[0], bool)
    for x in (state.physics.qpos, state.physics.qvel, state.physics.act):
        ok_E &= jnp.all(jnp.abs(x) < BAD_MAGNITUDE, axis=-1)  # false for NaN, too
    physics = where_env(ok_E, state.physics, last.physics)
    model_fields = where_env(ok_E, state.model_fields, last.model_fields)
    return replace(state, physics=physics, model_fields=model_fields), ~ok_E


def given(physics: PhysicsState, model_fields: dict[str, Array], ctrl_ESu: Float[Array, "E S nu"]) -> dict[str, Array]:
    """All that an engine is given for a step, by MuJoCo's names: what `Offenders.given` holds of its envs."""
    return {name: getattr(physics, name) for name in STATE_FIELDS} | model_fields | {"ctrl": ctrl_ESu}


def no_offenders(given_E: dict[str, Array]) -> Offenders:
    """None found yet: empty slots."""
    return Offenders(
        jnp.zeros((), jnp.int32), jax.tree.map(lambda x: jnp.zeros((_NUM_SLOTS, *x.shape[1:]), x.dtype), given_E)
    )


def keep_first(offenders: Offenders, bad_E: Bool[Array, " E"], given_E: dict[str, Array]) -> Offenders:
    """The offenders so far, and of the envs that have just diverged as many as there are slots left for."""
    rank_E = jnp.cumsum(bad_E, dtype=jnp.int32)  # 1 in the first bad env, 2 in the second, ...
    rank_N = jnp.arange(1, _NUM_SLOTS + 1) - offenders.count  # of the env that a slot waits for
    env_N = jnp.searchsorted(rank_E, rank_N, method="compare_all")
    is_new_N = (rank_N >= 1) & (rank_N <= rank_E[-1])
    kept = where_env(is_new_N, jax.tree.map(lambda x: x[env_N], given_E), offenders.given)
    return Offenders(jnp.minimum(offenders.count + rank_E[-1], _NUM_SLOTS), kept)
