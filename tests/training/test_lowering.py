"""The training is a program for an NVIDIA GPU, as far as a machine without one can tell."""

import math
import re
from functools import partial

import equinox as eqx
import jax
import pytest

from ksim.config.compose import compose
from ksim.training.experiment import build
from ksim.training.state import jit_chunk

SIZES = """
physics.threads=1 algo.num_envs=64 algo.num_env_states_per_minibatch=128 algo.num_minibatches=2
algo.num_learning_epochs=2 log.interval_iterations=2
""".split()
LARGEST = 64 * 1024  # bytes of a constant; what is larger belongs into an argument
_TENSOR = re.compile(r"tensor<((?:\d+x)*)([a-z]+)(\d+)>")


def lowered(*overrides: str, platform: str) -> str:
    """The train program of a task, as it is given to a platform's compiler."""
    experiment = build(compose([*SIZES, *overrides]))
    init = partial(experiment.algorithm.init, experiment.env)
    state = eqx.filter_eval_shape(init, jax.random.key(0))
    return jit_chunk(experiment).trace(state).lower(lowering_platforms=(platform,)).as_text()


def calls(text: str) -> set[str]:
    """What of it is not the compiler's own."""
    return set(re.findall(r"stablehlo\.custom_call @([\w.]+)", text))


def largest_constant(text: str) -> int:
    """In bytes; splats, which are one number, are left out."""
    written = re.findall(r"stablehlo\.constant dense<(?:\"|\[).*?> : (tensor<[^>]*>)", text)
    sizes = [0]
    for tensor in written:
        dims, _, bits = _TENSOR.fullmatch(tensor).groups()  # type: ignore[union-attr]
        sizes.append(math.prod(int(n) for n in dims.split("x") if n) * max(int(bits), 8) // 8)
    return max(sizes)


@pytest.mark.parametrize("task", ["cartpole_balance", pytest.param("kbot_walking", marks=pytest.mark.slow)])
def test_a_training_on_mjx_lowers_for_cuda_with_nothing_that_is_slow_there(task):
    text = lowered(f"task={task}", "physics=mjx", platform="cuda")
    assert text.count("stablehlo.while") > 3 and "xf32>" in text and "f64" not in text
    assert not [name for name in calls(text) if "callback" in name], calls(text)
    assert 0 < largest_constant(text) <= LARGEST


def test_a_host_callback_would_be_found():
    assert any("callback" in name for name in calls(lowered("task=cartpole_balance", "physics=mujoco", platform="cpu")))
