"""Actor and critic: a Gaussian policy and a value function, each with the statistics of what it observes."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.mirror import SignedPermutation
from ksim.envs.symmetry import Symmetry
from ksim.rl.distribution import Normal
from ksim.rl.networks import MLP, MirrorMLP
from ksim.rl.normalizer import Normalizer
from ksim.rl.policy import Policy


class GaussianPolicy(Policy):
    """A feed-forward policy whose standard deviations do not depend on the observation.

    Attributes:
        normalizer: statistics of the observations, (n,).
        network: normalized observation -> mean action (a,).
        log_std: (a,) logarithm of the standard deviation of each action element.
        mirror: how actions are mirrored; ties the standard deviations of left and right. None: not at all.
    """

    normalizer: Normalizer
    network: MLP | MirrorMLP
    log_std: Float[Array, " a"]
    mirror: SignedPermutation | None = eqx.field(static=True)

    def __call__(self, obs: Float[Array, "... n"], carry: tuple[()] = ()) -> tuple[Normal, tuple[()]]:
        """The distribution of actions; see `Policy`."""
        log_std = self.log_std
        if self.mirror is not None:
            log_std = 0.5 * (log_std + log_std[self.mirror.index])
        mean = self.network(self.normalizer(obs))
        return Normal(mean, jnp.broadcast_to(log_std, mean.shape)), carry

    def spec(self) -> dict[str, Any]:
        """See `Policy.spec`: layer sizes, activation and mirror maps."""
        mirrors = None
        if isinstance(self.network, MirrorMLP):
            mirrors = {"input": _plain(self.network.input_mirror), "output": _plain(self.network.output_mirror)}
        return {"sizes": self.network.sizes, "activation": self.network.activation, "mirror": mirrors}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "GaussianPolicy":
        """See `Policy.from_spec`."""
        sizes, activation, key = spec["sizes"], spec["activation"], jax.random.key(0)
        network: MLP | MirrorMLP = MLP(sizes, activation, last_scale=1.0, key=key)
        action_mirror = None
        if spec["mirror"] is not None:
            obs_mirror, action_mirror = (_permutation(spec["mirror"][end]) for end in ("input", "output"))
            network = MirrorMLP(sizes, activation, obs_mirror, action_mirror, last_scale=1.0, key=key)
        return cls(Normalizer.initial(sizes[0]), network, jnp.zeros(sizes[-1]), action_mirror)


class ActorCritic(eqx.Module):
    """What gradients change: the weights of actor and critic.

    Attributes:
        actor: normalized actor observation -> mean action (a,).
        critic: normalized critic observation -> value (1,).
        log_std: (a,) logarithm of the standard deviation of each action element.
    """

    actor: MLP | MirrorMLP
    critic: MLP | MirrorMLP
    log_std: Float[Array, " a"]


class Model(eqx.Module):
    """Everything that is learned: what a training that starts from this one takes over.

    Attributes:
        net: the weights of actor and critic.
        normalizer: statistics of the observation groups `actor` and `critic`.
        action_mirror: how actions are mirrored where the networks are equivariant; None else.
    """

    net: ActorCritic
    normalizer: dict[str, Normalizer]
    action_mirror: SignedPermutation | None = eqx.field(static=True)

    @property
    def policy(self) -> GaussianPolicy:
        """The actor, ready to act."""
        return GaussianPolicy(self.normalizer["actor"], self.net.actor, self.net.log_std, self.action_mirror)

    def value(self, obs: Float[Array, "... n"]) -> Float[Array, "..."]:
        """Expected discounted return for raw observations of the group `critic`."""
        return self.net.critic(self.normalizer["critic"](obs))[..., 0]


def make_model(
    obs_sizes: Mapping[str, int],
    action_size: int,
    *,
    hidden: Mapping[str, Sequence[int]],
    activation: str,
    init_std: float,
    symmetry: Symmetry | None,
    key: PRNGKeyArray,
) -> Model:
    """Fresh networks, and observation statistics that change nothing yet.

    Args:
        obs_sizes: lengths of the observations of `actor` and `critic`.
        action_size: length of the action.
        hidden: widths of their hidden layers.
        activation: name of the function between layers.
        init_std: first standard deviation of every action element, in action units.
        symmetry: how the robot mirrors, for equivariant networks; None for plain ones.
        key: random key.
    """
    actor_key, critic_key = jax.random.split(key)
    sizes = {
        "actor": [obs_sizes["actor"], *hidden["actor"], action_size],
        "critic": [obs_sizes["critic"], *hidden["critic"], 1],
    }
    actor: MLP | MirrorMLP
    critic: MLP | MirrorMLP
    if symmetry is None:
        actor = MLP(sizes["actor"], activation, last_scale=0.01, key=actor_key)
        critic = MLP(sizes["critic"], activation, last_scale=1.0, key=critic_key)
    else:
        same = SignedPermutation(np.arange(1), np.ones(1, np.float32))
        mirrors = symmetry.obs
        actor = MirrorMLP(sizes["actor"], activation, mirrors["actor"], symmetry.action, last_scale=0.01, key=actor_key)
        critic = MirrorMLP(sizes["critic"], activation, mirrors["critic"], same, last_scale=1.0, key=critic_key)
    net = ActorCritic(actor, critic, jnp.full(action_size, np.log(init_std), jnp.float32))
    normalizer = {group: Normalizer.initial(obs_sizes[group]) for group in ("actor", "critic")}
    return Model(net, normalizer, None if symmetry is None else symmetry.action)


def _plain(permutation: SignedPermutation) -> dict[str, list[float]]:
    return {"index": permutation.index.tolist(), "sign": permutation.sign.tolist()}


def _permutation(plain: Mapping[str, Any]) -> SignedPermutation:
    return SignedPermutation(np.array(plain["index"]), np.array(plain["sign"], np.float32))
