"""A policy as an ONNX graph: `obs` (batch, n) in, `action` (batch, a) out. Needs the extra `onnx`.

A recurrent policy has an input `carry_<i>` and an output `next_carry_<i>` for each array that it remembers.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ksim.errors import KsimError
from ksim.policies.saved import SavedPolicy

OPSET = 20  # the first with Gelu; onnxruntime >= 1.17 runs it
_PACKAGES = ("jax2onnx", "onnx", "onnxruntime")
INPUT, OUTPUT = "obs", "action"


def check_installed() -> None:
    """Raises KsimError where a package of the extra `onnx` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise KsimError(f"an export needs {' and '.join(missing)}: pip install 'ksim[onnx]'")


def carry_names(policy: SavedPolicy) -> list[str]:
    """Names of the arrays that a recurrent policy remembers, in the order of its carry's leaves."""
    return [f"carry_{i}" for i in range(len(jax.tree.leaves(policy.init_carry())))]


def make(policy: SavedPolicy, metadata: Mapping[str, str]) -> bytes:
    """The policy's most probable action as an ONNX file, observation statistics included.

    Args:
        policy: the policy.
        metadata: becomes the file's `metadata_props`.
    """
    import jax2onnx  # slow to import, and an optional extra
    import onnx  # an optional extra, too

    leaves, structure = jax.tree.flatten(policy.init_carry())

    def act(obs: jax.Array, *carry: jax.Array) -> tuple[jax.Array, ...]:
        distribution, after = policy.policy(obs, jax.tree.unflatten(structure, carry))
        return (distribution.mode(), *jax.tree.leaves(after))

    names = carry_names(policy)
    model = jax2onnx.to_onnx(
        act,
        [("batch", policy.observation_size), *(("batch", *leaf.shape[1:]) for leaf in leaves)],
        model_name="policy",
        opset=OPSET,
        input_names=[INPUT, *names],
        output_names=[OUTPUT, *(f"next_{name}" for name in names)],
    )
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


class Session:
    """An ONNX policy in onnxruntime.

    Args:
        model: the file's content.
    """

    def __init__(self, model: bytes):
        import onnxruntime  # an optional extra

        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._inputs = [found.name for found in self._session.get_inputs()]

    def __call__(self, obs: np.ndarray, carry: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, list[np.ndarray]]:
        """The actions (batch, a) for observations (batch, n), and what is to be remembered."""
        given: list[Any] = [np.asarray(obs, np.float32), *carry]
        action, *after = self._session.run(None, dict(zip(self._inputs, given, strict=True)))
        return action, after
