"""The NaN guard: diverged envs are found and put back, and the first ones of a run are kept."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ksim.envs.carry import DivergedEnvs, PerEnv
from ksim.envs.tree import replace, where_env
from ksim.physics.base import STATE_FIELDS, PhysicsState

BAD_MAGNITUDE = 1e10  # a state this large has diverged, as MuJoCo itself judges (mjMAXVAL)
_NUM_SLOTS = 4


def find_diverged(*arrays_E: Float[Array, "E ..."]) -> Bool[Array, " E"]:
    """Envs in which something is not finite or so large that MuJoCo would not take it."""
    ok_E = jnp.ones(len(arrays_E[0]), bool)
    for x in arrays_E:
        ok_E &= jnp.all(jnp.abs(x) < BAD_MAGNITUDE, axis=tuple(range(1, x.ndim)))  # false for NaN, too
    return ~ok_E


def put_back(envs: PerEnv, last: PerEnv, diverged_E: Bool[Array, " E"]) -> PerEnv:
    """Envs that diverged as they were before the step, the others as they are.

    Their model fields go back, too: an event that wrote NaN into a mass would otherwise break every later episode.
    """
    physics = where_env(~diverged_E, envs.physics, last.physics)
    model_fields = where_env(~diverged_E, envs.model_fields, last.model_fields)
    put: PerEnv = replace(envs, physics=physics, model_fields=model_fields)
    return put


def given(physics: PhysicsState, model_fields: dict[str, Array], ctrl_ESu: Float[Array, "E S nu"]) -> dict[str, Array]:
    """All that an engine is given for a step, by MuJoCo's names: what `DivergedEnvs.given` holds."""
    return {name: getattr(physics, name) for name in STATE_FIELDS} | model_fields | {"ctrl": ctrl_ESu}


def none_diverged(given_E: dict[str, Array]) -> DivergedEnvs:
    """None found yet: empty slots."""
    return DivergedEnvs(
        jnp.zeros((), jnp.int32), jax.tree.map(lambda x: jnp.zeros((_NUM_SLOTS, *x.shape[1:]), x.dtype), given_E)
    )


def keep_first(kept: DivergedEnvs, diverged_E: Bool[Array, " E"], given_E: dict[str, Array]) -> DivergedEnvs:
    """Those that are kept so far, and of the envs that have just diverged as many as there are slots left for."""
    rank_E = jnp.cumsum(diverged_E, dtype=jnp.int32)  # 1 in the first such env, 2 in the second, ...
    rank_N = jnp.arange(1, _NUM_SLOTS + 1) - kept.count  # of the env that a slot waits for
    env_N = jnp.searchsorted(rank_E, rank_N, method="compare_all")
    is_new_N = (rank_N >= 1) & (rank_N <= rank_E[-1])
    given = where_env(is_new_N, jax.tree.map(lambda x: x[env_N], given_E), kept.given)
    return DivergedEnvs(jnp.minimum(kept.count + rank_E[-1], _NUM_SLOTS), given)
