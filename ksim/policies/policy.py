"""A trained policy by itself, from its checkpoint alone: no env is built and no robot is loaded.

policy = ksim.policies.policy.load("runs/kbot_standing/latest")
action = policy(observation)
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from ksim.config.schema import PPOCfg
from ksim.envs.env import Symmetry
from ksim.envs.mirror import SignedPermutation
from ksim.errors import KsimError
from ksim.rl import ActorCritic, Normalizer, make_actor_critic
from ksim.store import checkpoint, run_dir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """The deterministic policy of a checkpoint.

    Attributes:
        path: the checkpoint.
        step: env steps that it was trained for.
        description: what it acts on and what its actions mean; see `ksim.policies.describe.describe`.
        net: actor and critic.
        normalizer: observation statistics, by group.
    """

    path: Path
    step: int
    description: Mapping[str, Any]
    net: ActorCritic
    normalizer: Mapping[str, Normalizer]

    @property
    def observation(self) -> list[dict[str, Any]]:
        """The terms of the observation in the order of its elements: `name`, `size`, `description`, ..."""
        terms: list[dict[str, Any]] = self.description["observations"]["actor"]
        return terms

    @property
    def observation_size(self) -> int:
        """Length of the observation vector."""
        return sum(term["size"] for term in self.observation)

    @property
    def joints(self) -> list[str]:
        """The joint that each element of the action moves."""
        return [joint for action in self.description["actions"] for joint in action["joints"]]

    def __call__(self, obs: ArrayLike | Mapping[str, ArrayLike]) -> np.ndarray:
        """The mean action.

        Args:
            obs: (..., n) the terms one after the other, each after its clip and its scale; or (..., size) of every
                term by its name.

        Returns:
            (..., a) the action, float32; `description["actions"]` has the law that makes targets of it.

        Raises:
            KsimError: the observation has another size, or a term is missing or unknown.
        """
        vector = self._concatenated(obs) if isinstance(obs, Mapping) else np.asarray(obs, np.float32)
        if vector.shape[-1:] != (self.observation_size,):
            raise KsimError(f"the policy's observation has {self.observation_size} elements, not {vector.shape[-1:]}")
        return np.asarray(self._act(vector))

    @cached_property
    def _act(self) -> Callable[[np.ndarray], jax.Array]:
        def act(obs: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest"):  # accelerators would round to fewer bits
                return self.net.policy(self.normalizer["actor"](obs))[0].mean

        return jax.jit(act)

    def _concatenated(self, obs: Mapping[str, ArrayLike]) -> np.ndarray:
        sizes = {term["name"]: term["size"] for term in self.observation}
        if obs.keys() != sizes.keys():
            raise KsimError(f"the policy's observation has the terms {', '.join(sizes)}; not {', '.join(obs)}")
        parts = {name: np.asarray(obs[name], np.float32) for name in sizes}
        for name, part in parts.items():
            if part.shape[-1:] != (sizes[name],):
                raise KsimError(f"the observation's term {name!r} has {sizes[name]} elements, not {part.shape[-1:]}")
        return np.concatenate(list(parts.values()), axis=-1)


def load(run: str | os.PathLike[str], which: str | int = "latest") -> Policy:
    """Load a policy.

    Args:
        run: the folder of a checkpoint, or a copy of its `manifest.json` and `policy.npz`; or a run directory,
            `latest` or `<task>/latest`.
        which: of a run, which checkpoint; see `ksim.store.checkpoint.find`.

    Raises:
        KsimError: there is none, it is damaged, or it does not describe its policy.
    """
    path = Path(run)
    if not checkpoint.is_checkpoint(path):
        path = checkpoint.find(run_dir.open(run).checkpoints, which, log.warning)
    description = checkpoint.read_manifest(path).meta
    if "network" not in description:
        raise checkpoint.CheckpointError(
            f"{path} does not describe its policy (an older ksim wrote it); `python -m ksim.eval` can load it"
        )
    like = jax.eval_shape(lambda: _fresh(description))
    found = checkpoint.load(path, {"policy": like}, alone=True)
    return Policy(path, found.step, description, **found.trees["policy"])


def _fresh(description: Mapping[str, Any]) -> dict[str, Any]:
    """The tree `policy` of the checkpoint that is described, with other numbers in it."""
    network = description["network"]
    sizes = {group: sum(term["size"] for term in terms) for group, terms in description["observations"].items()}
    cfg = PPOCfg(
        actor_hidden=network["actor_hidden"],
        critic_hidden=network["critic_hidden"],
        activation=network["activation"],
        init_std=1.0,
    )
    net = make_actor_critic(
        cfg,
        sizes["actor"],
        sizes["critic"],
        sum(len(action["joints"]) for action in description["actions"]),
        symmetry=_symmetry(network["symmetry"]),
        key=jax.random.key(0),
    )
    return {"net": net, "normalizer": {group: Normalizer.initial(sizes[group]) for group in ("actor", "critic")}}


def _symmetry(described: Mapping[str, Any] | None) -> Symmetry | None:
    def permutation(plain: Mapping[str, Any]) -> SignedPermutation:
        return SignedPermutation(np.array(plain["index"]), np.array(plain["sign"], np.float32))

    if described is None:
        return None
    return Symmetry(permutation(described["action"]), {g: permutation(p) for g, p in described["obs"].items()})
