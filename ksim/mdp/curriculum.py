"""Curriculum terms: values that change with the steps of a training or with how its episodes end.

A curriculum sees the whole batch (`ksim.envs.managers.curriculum.Progress`), not one env. Steps are those of each env,
not summed over envs.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ksim.envs.managers.curriculum import Progress
from ksim.errors import ConfigError

Value = float | tuple[float, ...]


def linear(progress: Progress, *, start: Value, end: Value, num_steps: int, first_step: int = 0) -> Float[Array, "*n"]:
    """From one value to another in a straight line, and then as it is.

    Args:
        progress: of the training.
        start: first value; a number, or several such as a range.
        end: last value, of the same length.
        num_steps: env steps from the first to the last.
        first_step: env steps before it begins.
    """
    _same_length(start, end)
    share = jnp.clip((progress.num_steps - first_step) / num_steps, 0.0, 1.0)
    return jnp.asarray(start) + share * (jnp.asarray(end) - jnp.asarray(start))


def stages(progress: Progress, *, values: tuple[Value, ...], steps: tuple[int, ...]) -> Float[Array, "*n"]:
    """One value after another: the first at once, each further one from an env step on.

    Args:
        progress: of the training.
        values: one more than steps.
        steps: env steps at which the next value comes, rising.
    """
    if len(values) != len(steps) + 1 or list(steps) != sorted(steps):
        raise ConfigError(f"{len(values)} values need {len(values) - 1} rising steps, not {list(steps)}")
    return jnp.asarray(values)[jnp.sum(progress.num_steps >= jnp.asarray(steps))]


class by_episode_length(eqx.Module):  # noqa: N801  (a term's name, as a task writes it)
    """Harder while the episodes are long, easier while they are short: a level that moves between two values.

    After each step in which episodes end, the level goes up by `rate` times the share of ends that are no earlier than
    `long_steps`, and down by `rate` times the share of those that are earlier than `short_steps`.

    Args:
        start: value of level 0, the first.
        end: value of level 1.
        long_steps: env steps of an episode that went well.
        short_steps: env steps of one that did not.
        rate: change of the level for an env's episode, over the number of envs.
    """

    start: Value
    end: Value
    long_steps: int
    short_steps: int
    rate: float = 0.05

    def init(self) -> tuple[Array, Array]:
        """The first value, of level 0."""
        _same_length(self.start, self.end)
        return jnp.asarray(self.start, jnp.float32), jnp.zeros(())

    def __call__(self, progress: Progress, level: Float[Array, ""]) -> tuple[Array, Array]:
        """The value after this step."""
        length = progress.episode["length"]
        went_well = progress.done & (length >= self.long_steps)
        went_badly = progress.done & (length < self.short_steps)
        level = jnp.clip(level + self.rate * jnp.mean(1.0 * went_well - 1.0 * went_badly), 0.0, 1.0)
        return jnp.asarray(self.start) + level * (jnp.asarray(self.end) - jnp.asarray(self.start)), level


def _same_length(start: Value, end: Value) -> None:
    if jnp.shape(jnp.asarray(start)) != jnp.shape(jnp.asarray(end)):
        raise ConfigError(f"start = {start} and end = {end} must have the same length")
