"""A policy as an ONNX graph: `obs` (batch, n) in, `action` (batch, a) out. Needs the extra `onnx`."""

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ksim import __version__
from ksim.errors import KsimError
from ksim.policies.policy import Policy
from ksim.rl.normalizer import LARGEST

if TYPE_CHECKING:
    import onnx

OPSET = 20  # the first with Gelu; onnxruntime >= 1.17 runs it
_PACKAGES = ("onnx", "onnxruntime")
INPUT, OUTPUT = "obs", "action"


def check_installed() -> None:
    """Raises KsimError where a package of the extra `onnx` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise KsimError(f"an export needs {' and '.join(missing)}: pip install 'ksim[onnx]'")


def make(policy: Policy, metadata: Mapping[str, str]) -> bytes:
    """The policy's normalizer and the mean of its actor as an ONNX file.

    Args:
        policy: gives the numbers.
        metadata: becomes the file's `metadata_props`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights, biases = policy.net.actor.dense()
    normalizer = policy.normalizer["actor"]
    constants = {
        "obs_mean": normalizer.mean,
        "obs_inverse_std": normalizer.inverse_std,
        "lowest": -LARGEST,
        "largest": LARGEST,
    }
    nodes = [
        helper.make_node("Sub", [INPUT, "obs_mean"], ["centered"]),
        helper.make_node("Mul", ["centered", "obs_inverse_std"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "lowest", "largest"], ["layer_0"]),
    ]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        constants |= {f"weight_{i}": weight, f"bias_{i}": bias}
        is_last = i == len(weights) - 1
        out = OUTPUT if is_last else f"linear_{i}"
        nodes.append(helper.make_node("Gemm", [f"layer_{i}", f"weight_{i}", f"bias_{i}"], [out], transB=1))
        if not is_last:
            nodes += _activation(policy.net.actor.activation, out, f"layer_{i + 1}")
    shape = {INPUT: policy.observation_size, OUTPUT: len(policy.joints)}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n, size in shape.items()}
    graph = helper.make_graph(
        nodes,
        "policy",
        [values[INPUT]],
        [values[OUTPUT]],
        [numpy_helper.from_array(np.asarray(x, np.float32), name) for name, x in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model_gen_version(
        graph, opset_imports=opsets, producer_name="ksim", producer_version=__version__
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run(model: bytes, obs: np.ndarray) -> np.ndarray:
    """The actions (batch, a) that onnxruntime computes for observations (batch, n)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    action: np.ndarray = session.run([OUTPUT], {INPUT: np.asarray(obs, np.float32)})[0]
    return action


def _activation(name: str, x: str, out: str) -> "list[onnx.NodeProto]":
    """The nodes of an activation, each as `ksim.rl.networks` computes it."""
    from onnx import helper

    if name in ("silu", "swish"):
        gate = f"{out}_gate"
        return [helper.make_node("Sigmoid", [x], [gate]), helper.make_node("Mul", [x, gate], [out])]
    if name == "gelu":
        return [helper.make_node("Gelu", [x], [out], approximate="tanh")]
    operators = {"elu": "Elu", "relu": "Relu", "tanh": "Tanh"}
    return [helper.make_node(operators[name], [x], [out])]
