"""What terms of gaits are made of: when each foot is due to swing, by the clock that `commands.gait_clock` gives."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ksim.envs.context import Context
from ksim.errors import ConfigError


def swing_share(
    ctx: Context, clock: str, num_feet: int, *, stance: float, offsets: Sequence[float] | None
) -> Float[Array, " n"]:
    """How high each foot is due to be, from 0, on the ground, to 1, in the middle of its swing; 0 for all of them while
    the clock is stopped.

    An arc of a sine above the level that leaves a foot on the ground for `stance` of the period: (s - c) / (1 - c)
    where s = sin(2 pi (phase + offset)) is above c = sin(pi (stance - 1 / 2)).

    Args:
        ctx: the env.
        clock: name of a command `gait_clock`.
        num_feet: n.
        stance: share of the period in which a foot is on the ground.
        offsets: by how much each foot is ahead of the clock, in periods; None: evenly spread.

    Raises:
        ConfigError: as many offsets as feet are needed; a share is none.
    """
    if offsets is not None and len(offsets) != num_feet:
        raise ConfigError(f"offsets: has {len(offsets)} elements for {num_feet} feet")
    if not 0.0 < stance < 1.0:
        raise ConfigError(f"stance: must be a share of the period between 0 and 1, not {stance}")
    offset_n = np.arange(num_feet) / num_feet if offsets is None else np.asarray(offsets)
    cos, sin = ctx.command(clock)
    sin_n = sin * np.cos(2.0 * np.pi * offset_n) + cos * np.sin(2.0 * np.pi * offset_n)
    level = np.sin(np.pi * (stance - 0.5))
    # A stopped clock shows (0, 0): below any level but a negative one.
    runs = jnp.square(cos) + jnp.square(sin) > 0.5
    return jnp.where(runs, jnp.maximum(sin_n - level, 0.0) / (1.0 - level), 0.0)
