"""What a training asks of an algorithm, and the program that a training runs."""

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.config.fields import setting
from ksim.envs.carry import EnvCarry
from ksim.envs.env import Env
from ksim.rl.policy import Policy
from ksim.system import mesh

Metrics = dict[str, Float[Array, ""]]
ENV = "env/"  # what the names of the env's own numbers start with: sums over the steps of an iteration


class State(Protocol):
    """What an algorithm carries from iteration to iteration: a pytree, saved and resumed as a whole.

    A state may have a field `model`, everything that is learned: then `init_from` can start from it. A field `obs` is
    what the envs show: over several devices, it is split among them as the envs are, and all else is on each.
    """

    @property
    def env_carry(self) -> EnvCarry:
        """The envs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Algorithm(abc.ABC):
    """A learner, with its settings as fields: what `algo:` in YAML names by `_target_`.

    Subclasses are dataclasses too. Each field is a setting; its type, bounds and default are checked before anything
    compiles, and `__post_init__` may raise ValueError for settings that do not fit together.

    Attributes:
        num_envs: parallel environments (E).
        total_steps: env steps to train for, over all envs; rounded up to whole log intervals.
    """

    num_envs: int = setting(1024, above=0)
    total_steps: int = setting(10_000_000, above=0)

    @property
    @abc.abstractmethod
    def steps_per_iteration(self) -> int:
        """Env steps, over all envs, that one iteration takes."""

    @property
    def split_sizes(self) -> dict[str, int]:
        """What is split among the devices of a training, by the setting's name; each device gets an equal part."""
        return {"num_envs": self.num_envs}

    @abc.abstractmethod
    def init(self, env: Env, key: PRNGKeyArray) -> Any:
        """The first `State`: fresh envs (`env.reset(key, self.num_envs, random_age=True)`) and fresh networks."""

    @abc.abstractmethod
    def iterate(self, env: Env, state: Any) -> tuple[Any, Metrics]:
        """One iteration, inside `jit`.

        Returns:
            The next state, and numbers for the log: the env's log, summed over the steps, as `env/<name>`
            (see `env_metrics`), anything else as `<algorithm>/<name>`, such as `ppo/kl`.
        """

    @abc.abstractmethod
    def policy(self, state: Any) -> Policy:
        """The policy as it is now."""

    def with_settings(self, changes: Mapping[str, Any]) -> Self:
        """A copy with other values of some settings, taken as they are: they may be arrays that are being traced."""
        copied = object.__new__(type(self))
        made = {name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)}
        copied.__dict__.update({name: x for name, x in vars(self).items() if name not in made} | dict(changes))
        return copied

    def check(self, env: Env) -> None:  # noqa: B027  (most refuse nothing)
        """Refuse an env that this algorithm cannot train on.

        Raises:
            ConfigError: naming the YAML path of what does not fit.
        """


def env_metrics(log: dict[str, Float[Array, ""]]) -> Metrics:
    """The sums of an env's log, under the names that `Algorithm.iterate` returns them by."""
    return {ENV + name: x for name, x in log.items()}


def train_chunk(
    env: Env, algorithm: Algorithm, state: Any, num_iterations: int
) -> tuple[Any, Metrics, dict[str, Bool[Array, ""]]]:
    """Several iterations as one program; only scalars leave it.

    Returns:
        The next state; the env's log summed over the chunk and the means of everything else; and by the name of each
        part of the state but the envs whether it is finite.
    """

    def iterate(state: Any, _: None) -> tuple[Any, Metrics]:
        state, metrics = algorithm.iterate(env, state)
        return mesh.placed(state, is_split(state)), metrics

    state, metrics = jax.lax.scan(iterate, state, None, length=num_iterations)
    reduced = {name: jnp.sum(x) if name.startswith(ENV) else jnp.mean(x) for name, x in metrics.items()}
    return state, reduced, are_finite(state)


def is_split(state: Any) -> Any:
    """For each array of a state, whether its first axis is that of the envs."""

    def has_envs(path: tuple[Any, ...], _: Any) -> bool:
        names = [getattr(key, "name", None) for key in path[:2]]
        return names[0] == "obs" or names == ["env_carry", "envs"]

    return jax.tree.map_with_path(has_envs, state)


def are_finite(state: Any) -> dict[str, Bool[Array, ""]]:
    """Whether all numbers of a state are finite, by field; the envs have a guard of their own."""

    def is_finite(part: Any) -> Bool[Array, ""]:
        leaves = [leaf for leaf in jax.tree.leaves(part) if eqx.is_inexact_array(leaf)]
        return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all() if leaves else jnp.array(True)

    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: is_finite(part) for name, part in fields.items() if name not in ("env_carry", "obs")}
