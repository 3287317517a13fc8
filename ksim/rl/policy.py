"""A policy as one Equinox module: rollouts, evaluations, the saved file and the viewer know only this."""

import abc
from collections.abc import Mapping
from typing import Any, Self

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ksim.rl.distribution import Distribution


class Policy(eqx.Module):
    """From what the robot observes to a distribution of actions, observation statistics included.

    Subclasses are Equinox modules. A recurrent policy returns what it remembers as its carry: arrays with the batch
    in front, which begins anew with each episode. A feed-forward policy has the empty carry `()`.
    """

    @abc.abstractmethod
    def __call__(self, obs: Float[Array, "... n"], carry: PyTree[Array] = ()) -> tuple[Distribution, PyTree[Array]]:
        """The distribution of actions, and the carry of the next env step.

        Args:
            obs: raw observations of the group `actor`, as the env gives them.
            carry: of the env step before; `init_carry` at the start of an episode.
        """

    def init_carry(self, batch: int) -> PyTree[Array]:
        """The carry of `batch` episodes that begin."""
        del batch
        return ()

    @abc.abstractmethod
    def spec(self) -> dict[str, Any]:
        """What `from_spec` needs to make a policy of the same shapes, in JSON's types; a checkpoint holds it."""

    @classmethod
    @abc.abstractmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """A policy of these shapes; its numbers do not matter, they are read from the checkpoint."""
