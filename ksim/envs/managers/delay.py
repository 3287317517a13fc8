"""Delay lines and histories of observations: what was seen some env steps ago."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.envs.managers.timers import draw_steps, nearest_steps
from ksim.envs.settings import DelayCfg
from ksim.envs.tree import where


class DelayLine(eqx.Module):
    """The newest frames of one term, and how old the one is that is seen.

    Attributes:
        lag: age of what is seen, in env steps.
        frames: (K, n) newest first.
    """

    lag: Int[Array, ""]
    frames: Float[Array, "K n"]


def delay(
    cfg: DelayCfg,
    line: DelayLine | None,
    frame: Float[Array, " n"],
    key: PRNGKeyArray,
    fresh: Bool[Array, ""] | bool,
    step_dt: float,
) -> tuple[Float[Array, " n"], DelayLine]:
    """What is seen now, and the line with the new frame; a fresh episode's line is full of its first frame."""
    hold_key, lag_key = jax.random.split(key)
    lag = draw_steps(lag_key, cfg.range_s, step_dt, at_least=0)
    if line is not None:
        holds = jax.random.uniform(hold_key) < cfg.hold_probability
        lag = jnp.where(holds & ~jnp.asarray(fresh), line.lag, lag)
    frames = push(None if line is None else line.frames, frame, nearest_steps(cfg.range_s[1], step_dt) + 1, fresh)
    return frames[lag], DelayLine(lag, frames)


def push(
    frames: Float[Array, "K n"] | None, frame: Float[Array, " n"], count: int, fresh: Bool[Array, ""] | bool
) -> Float[Array, "K n"]:
    """The newest frames, newest first; where the episode is fresh, its first frame in every place."""
    full = jnp.broadcast_to(frame, (count, *frame.shape))
    pushed = None if frames is None else jnp.concatenate([frame[None], frames[:-1]])
    return where(jnp.asarray(fresh), full, pushed)
