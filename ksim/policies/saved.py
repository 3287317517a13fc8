"""A trained policy by itself, from its checkpoint alone: no env is built and no robot is loaded.

policy = ksim.load_policy("runs/kbot_standing/latest")
action = policy(observation)
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from numpy.typing import ArrayLike

from ksim.envs.terms import locate
from ksim.errors import KsimError
from ksim.rl.policy import Policy
from ksim.store import checkpoint, manifest, run_dir
from ksim.system import trust
from ksim.system.jit import jit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedPolicy:
    """The deterministic policy of a checkpoint.

    Attributes:
        path: the checkpoint.
        step: env steps that it was trained for.
        description: what it acts on and what its actions mean; see `ksim.policies.describe.describe`.
        policy: the policy itself, as algorithms train it.
    """

    path: Path
    step: int
    description: Mapping[str, Any]
    policy: Policy

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

    @property
    def is_recurrent(self) -> bool:
        """Whether the policy remembers something from step to step."""
        return bool(jax.tree.leaves(self.init_carry(1)))

    def init_carry(self, batch: int = 1) -> PyTree[Array]:
        """What the policy remembers at the start of `batch` episodes; `()` where it remembers nothing."""
        return self.policy.init_carry(batch)

    def __call__(self, obs: ArrayLike | Mapping[str, ArrayLike]) -> np.ndarray:
        """The most probable action, of a policy that remembers nothing.

        Args:
            obs: (..., n) the terms one after the other, each after its clip and its scale; or (..., size) of every
                term by its name.

        Returns:
            (..., a) the action, float32; `description["actions"]` has the law that makes targets of it.

        Raises:
            KsimError: the observation has another size, a term is missing or unknown, or the policy is recurrent.
        """
        if self.is_recurrent:
            raise KsimError("this policy is recurrent: action, carry = policy.act(obs, carry), from init_carry() on")
        return np.asarray(self._jitted(self._vector(obs), ())[0])

    def act(self, obs: ArrayLike | Mapping[str, ArrayLike], carry: PyTree[Array]) -> tuple[np.ndarray, PyTree[Array]]:
        """The most probable action, (batch, a), and the carry of the next env step.

        Args:
            obs: as for a call, with one leading axis, the batch.
            carry: of the env step before, or `init_carry(batch)`.

        Raises:
            KsimError: as for a call.
        """
        action, carry = self._jitted(self._vector(obs), carry)
        return np.asarray(action), carry

    @cached_property
    def _jitted(self) -> Callable[[np.ndarray, Any], tuple[jax.Array, Any]]:
        def act(obs: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
            distribution, carry = self.policy(obs, carry)
            return distribution.mode(), carry

        return jit(act)

    def _vector(self, obs: ArrayLike | Mapping[str, ArrayLike]) -> np.ndarray:
        vector = self._concatenated(obs) if isinstance(obs, Mapping) else np.asarray(obs, np.float32)
        if vector.shape[-1:] != (self.observation_size,):
            raise KsimError(f"the policy's observation has {self.observation_size} elements, not {vector.shape[-1:]}")
        return vector

    def _concatenated(self, obs: Mapping[str, ArrayLike]) -> np.ndarray:
        sizes = {term["name"]: term["size"] for term in self.observation}
        if obs.keys() != sizes.keys():
            raise KsimError(f"the policy's observation has the terms {', '.join(sizes)}; not {', '.join(obs)}")
        parts = {name: np.asarray(obs[name], np.float32) for name in sizes}
        for name, part in parts.items():
            if part.shape[-1:] != (sizes[name],):
                raise KsimError(f"the observation's term {name!r} has {sizes[name]} elements, not {part.shape[-1:]}")
        return np.concatenate(list(parts.values()), axis=-1)


def load(run: str | os.PathLike[str], which: str | int = "latest") -> SavedPolicy:
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
    return read(path)


def read(path: Path) -> SavedPolicy:
    """The policy of the checkpoint `path`.

    Raises:
        CheckpointError: it is damaged, or it does not describe its policy.
    """
    description = manifest.read(path).meta
    spec = description.get("policy")
    if not isinstance(spec, Mapping) or trust.TARGET not in spec:
        raise checkpoint.CheckpointError(f"{path} does not describe its policy: an older ksim wrote it")
    trust.check_policy(path / "manifest.json", str(spec[trust.TARGET]))
    cls = locate(spec[trust.TARGET], f"{path}: the policy's description")
    like = _shapes(cls, spec, description, path)
    found = checkpoint.load(path, {"policy": like}, alone=True)
    return SavedPolicy(path, found.step, description, found.trees["policy"])


def _shapes(cls: Any, spec: Mapping[str, Any], description: Mapping[str, Any], path: Path) -> Policy:
    """The policy with shapes in place of arrays, after it acted as its description says: a checksum says nothing of
    who wrote that.
    """
    try:
        observed = _observed(description)
        joints = _moved(description)
        if not description["step_dt"] > 0:
            raise ValueError(f"step_dt: {description['step_dt']}")
        if not (isinstance(cls, type) and issubclass(cls, Policy)):
            raise TypeError(f"{spec[trust.TARGET]} is no Policy")
        policy: Policy = eqx.filter_eval_shape(lambda: cls.from_spec(spec))
        action = eqx.filter_eval_shape(_first_action, policy, jax.ShapeDtypeStruct((1, observed), jnp.float32))
        if action.shape != (1, joints):
            raise ValueError(f"an action for {joints} joints has the shape {action.shape}")
    except Exception as error:  # whatever code that expects another description raises
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise checkpoint.CheckpointError(f"{path}: its policy is not what its description says ({why})") from error
    return policy


def _observed(description: Mapping[str, Any]) -> int:
    """How many numbers the actor's terms have together."""
    terms = description["observations"]["actor"]
    sizes = {term["name"]: term["size"] for term in terms}
    is_plain = all(isinstance(name, str) and type(size) is int and size > 0 for name, size in sizes.items())
    if len(sizes) != len(terms) or not is_plain:
        raise ValueError(f"observations: {sizes}")
    return sum(sizes.values())


def _moved(description: Mapping[str, Any]) -> int:
    """How many joints the actions move."""
    joints = [joint for action in description["actions"] for joint in action["joints"]]
    if not all(isinstance(joint, str) for joint in joints):
        raise TypeError(f"joints: {joints}")
    return len(joints)


def _first_action(policy: Policy, obs: jax.Array) -> jax.Array:
    return policy(obs, policy.init_carry(1))[0].mode()
