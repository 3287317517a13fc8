"""Command terms: goals that are drawn at a reset and then now and then.

A command is a function of the context and a random key that draws a vector; or, where its value changes between
draws, a class with ``init(ctx, key) -> carry`` and ``__call__(ctx, carry) -> (value, carry)``.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.envs.context import Context
from ksim.envs.math import wrap_angle, yaw_of
from ksim.envs.traits import term
from ksim.errors import ConfigError
from ksim.mdp import drawings

Range = tuple[float, float]


class VelocityGoal(eqx.Module):
    """What `uniform_velocity` draws.

    Attributes:
        velocity: (x, y, yaw rate) in the base's heading frame, m/s and rad/s.
        heading: in the world, rad.
        is_heading: the yaw rate follows the heading.
        is_standing: the command is zero.
    """

    velocity: Float[Array, " 3"]
    heading: Float[Array, ""]
    is_heading: Bool[Array, ""]
    is_standing: Bool[Array, ""]


@term(mirrors_as="planar", draws=drawings.velocity_command)
class uniform_velocity(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Velocity of the base over the floor, (x forward, y left, yaw rate), in the base's heading frame; each uniform.

    A share of the draws asks to stand. Another share gives a heading in the world in place of a yaw rate, which then
    is the heading's error times `heading_gain`, within `yaw_rate_range`.

    Args:
        x_range: forward velocity, m/s.
        y_range: velocity to the left, m/s.
        yaw_rate_range: rad/s.
        heading_range: rad; it is drawn for the heading share.
        standing_share: probability of a command of zeros.
        heading_share: probability of a heading, among the commands that do not stand.
        heading_gain: yaw rate per heading error, 1/s.
    """

    x_range: Range
    y_range: Range
    yaw_rate_range: Range
    heading_range: Range = (-jnp.pi, jnp.pi)
    standing_share: float = 0.0
    heading_share: float = 0.0
    heading_gain: float = 0.5

    def __check_init__(self) -> None:
        for name in ("standing_share", "heading_share"):
            share = getattr(self, name)
            if isinstance(share, float) and not 0.0 <= share <= 1.0:
                raise ConfigError(f"{name}: must be from 0 to 1, not {share}")

    def init(self, ctx: Context, key: PRNGKeyArray) -> VelocityGoal:
        """Draw a goal."""
        keys = jax.random.split(key, 6)
        ranges = (self.x_range, self.y_range, self.yaw_rate_range, self.heading_range)
        *velocity, heading = (
            jax.random.uniform(k, (), ctx.qpos.dtype, r[0], r[1]) for k, r in zip(keys[:4], ranges, strict=True)
        )
        is_standing = jax.random.uniform(keys[4]) < self.standing_share
        is_heading = jax.random.uniform(keys[5]) < self.heading_share
        return VelocityGoal(jnp.stack(velocity), heading, is_heading, is_standing)

    def __call__(self, ctx: Context, goal: VelocityGoal) -> tuple[Float[Array, " 3"], VelocityGoal]:
        """The goal as it is now."""
        error = wrap_angle(goal.heading - yaw_of(ctx.base_quat))
        turn = jnp.clip(self.heading_gain * error, self.yaw_rate_range[0], self.yaw_rate_range[1])
        yaw_rate = jnp.where(goal.is_heading, turn, goal.velocity[2])
        value = jnp.concatenate([goal.velocity[:2], yaw_rate[None]])
        return jnp.where(goal.is_standing, 0.0, value), goal


def uniform(ctx: Context, key: PRNGKeyArray, *, low: tuple[float, ...], high: tuple[float, ...]) -> Float[Array, " n"]:
    """A vector, each element uniform between its lowest and its highest value."""
    if len(low) != len(high):
        raise ConfigError(f"low has {len(low)} elements, high {len(high)}")
    return jax.random.uniform(key, (len(low),), ctx.qpos.dtype, jnp.asarray(low), jnp.asarray(high))
