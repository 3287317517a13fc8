"""The NaN guard: diverged envs are found, put back, and the first one of a run is kept."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ksim.envs.state import Offender
from ksim.envs.tree import where_env
from ksim.physics import PhysicsState

_BAD_MAGNITUDE = 1e10  # a state this large has diverged, as MuJoCo itself judges (mjMAXVAL)


def put_back(physics: PhysicsState, last: PhysicsState) -> tuple[PhysicsState, Bool[Array, " E"]]:
    """Put envs whose state is not finite or has diverged back to their last good state, and say which."""
    ok_E = jnp.ones(physics.qpos.shape[0], bool)
    for x in (physics.qpos, physics.qvel, physics.act):
        ok_E &= jnp.all(jnp.abs(x) < _BAD_MAGNITUDE, axis=-1)  # false for NaN, too
    return where_env(ok_E, physics, last), ~ok_E


def no_offender(physics: PhysicsState, num_controls: int) -> Offender:
    """None found yet; the arrays have the shapes of one env's."""
    one = jax.tree.map(lambda x: x[0], physics)
    ctrl_u = jnp.zeros(num_controls, one.qpos.dtype)
    return Offender(jnp.zeros((), bool), one.qpos, one.qvel, one.act, one.qacc_warmstart, ctrl_u)


def first_offender(
    offender: Offender, bad_E: Bool[Array, " E"], before: PhysicsState, ctrl_Eu: Float[Array, "E nu"]
) -> Offender:
    """The run's first offender: the one so far, or one of the envs that have just diverged."""
    env = jnp.argmax(bad_E)
    new = Offender(
        bad_E.any(), before.qpos[env], before.qvel[env], before.act[env], before.qacc_warmstart[env], ctrl_Eu[env]
    )
    return jax.tree.map(lambda n, o: jnp.where(offender.found, o, n), new, offender)
