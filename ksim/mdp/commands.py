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
from ksim.mdp.quantities import is_asked_to_move

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


class GaitClock(eqx.Module):
    """What `gait_clock` carries.

    Attributes:
        phase: of the gait, in periods, from 0 to 1.
        runs: false while it is stopped.
    """

    phase: Float[Array, ""]
    runs: Bool[Array, ""]


@term(mirrors_as="phase", draws=drawings.gait_clock)
class gait_clock(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """The clock of a gait, (cos, sin) of 2 pi times its phase; (0, 0) while it is stopped.

    It runs while another command asks to move. When that asks to stand, the clock goes on to the next half period, so
    that a step is finished, and stops there; from there it starts again. An episode begins at either half.

    Args:
        period_s: of the gait, s: the time of two steps of a biped.
        command: name of the command that asks to move, longer than `min_command` in its own units; it must come first
            in the task. None: it always runs.
        min_command: see `command`.
    """

    period_s: float = 0.8
    command: str | None = None
    min_command: float = 0.1

    def __check_init__(self) -> None:
        if isinstance(self.period_s, float | int) and self.period_s <= 0:
            raise ConfigError(f"period_s: must be positive, not {self.period_s}")

    def init(self, ctx: Context, key: PRNGKeyArray) -> GaitClock:
        """Stopped, with either foot due."""
        half = jax.random.bernoulli(key).astype(ctx.qpos.dtype)
        return GaitClock(0.5 * half, jnp.zeros((), bool))

    def __call__(self, ctx: Context, clock: GaitClock) -> tuple[Float[Array, " 2"], GaitClock]:
        """One env step later."""
        moves = is_asked_to_move(ctx, self.command, self.min_command)
        # Halves are counted by the nearest 1e-4 of them: the sum of many float32 steps hardly ever is 1 exactly.
        ahead = clock.phase + ctx.step_dt / self.period_s
        half = jnp.floor(2.0 * ahead + 1e-4)
        stops = ~moves & (~clock.runs | (half > jnp.floor(2.0 * clock.phase + 1e-4)))
        rest = jnp.where(clock.runs, 0.5 * half, clock.phase)
        phase = jnp.where(stops, rest, ahead) % 1.0
        angle = 2.0 * jnp.pi * phase
        return jnp.where(stops, 0.0, jnp.stack([jnp.cos(angle), jnp.sin(angle)])), GaitClock(phase, ~stops)


def uniform(ctx: Context, key: PRNGKeyArray, *, low: tuple[float, ...], high: tuple[float, ...]) -> Float[Array, " n"]:
    """A vector, each element uniform between its lowest and its highest value."""
    if len(low) != len(high):
        raise ConfigError(f"low has {len(low)} elements, high {len(high)}")
    return jax.random.uniform(key, (len(low),), ctx.qpos.dtype, jnp.asarray(low), jnp.asarray(high))
