"""Multilayer perceptrons, plain and equivariant.

With a robot's left-right symmetry, `MirrorMLP` makes a policy equivariant, pi(mirrored obs) = mirrored pi(obs), and a
value invariant, at the cost of a plain MLP of the same width: hidden units come in pairs that swap when the robot is
mirrored (group-equivariant layers of the two-element group: Cohen & Welling 2016, https://arxiv.org/abs/1602.07576).
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.mirror import SignedPermutation

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


class MLP(eqx.Module):
    """A multilayer perceptron with orthogonal weights and no activation after the last layer.

    Attributes:
        weights: one (out, in) matrix per layer.
        biases: one (out,) vector per layer.
    """

    weights: list[Float[Array, "out in"]]
    biases: list[Float[Array, " out"]]
    activation: str = eqx.field(static=True)

    def __init__(self, sizes: Sequence[int], activation: str, *, last_scale: float, key: PRNGKeyArray):
        """Make the weights.

        Args:
            sizes: lengths of input, hidden layers and output.
            activation: name of the function between layers.
            last_scale: gain of the last layer; small makes a policy start near zero.
            key: random key.
        """
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        gains = [np.sqrt(2.0)] * (len(shapes) - 1) + [last_scale]
        self.weights = [
            jax.nn.initializers.orthogonal(gain)(k, shape) for gain, k, shape in zip(gains, keys, shapes, strict=True)
        ]
        self.biases = [jnp.zeros(shape[0]) for shape in shapes]
        self.activation = activation

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        """Apply the network to the last axis."""
        return _perceptron(*self.dense(), self.activation, x)

    @property
    def sizes(self) -> list[int]:
        """Lengths of input, hidden layers and output."""
        return [self.weights[0].shape[1], *(weight.shape[0] for weight in self.weights)]

    def dense(self) -> tuple[list[Float[Array, "out in"]], list[Float[Array, " out"]]]:
        """Weights and biases of the layers."""
        return self.weights, self.biases


class MirrorMLP(eqx.Module):
    """An MLP that commutes with a mirroring of input and output.

    The hidden units are two halves that swap when the input is mirrored, so the weights of one half follow from
    those of the other: it is an ordinary MLP of the same width with half the parameters.

    Attributes:
        weights: of one half of each layer: (hidden / 2, in), (hidden / 2, hidden), ..., (out, hidden).
        biases: likewise.
        input_mirror, output_mirror: how input and output are mirrored.
    """

    weights: list[Float[Array, "out in"]]
    biases: list[Float[Array, " out"]]
    activation: str = eqx.field(static=True)
    input_mirror: SignedPermutation = eqx.field(static=True)
    output_mirror: SignedPermutation = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str,
        input_mirror: SignedPermutation,
        output_mirror: SignedPermutation,
        *,
        last_scale: float,
        key: PRNGKeyArray,
    ):
        """Make the weights; arguments as for `MLP`, hidden sizes even, and how input and output are mirrored."""
        full = MLP(sizes, activation, last_scale=last_scale, key=key)
        halves = [*(size // 2 for size in sizes[1:-1]), sizes[-1]]
        self.weights = [weight[:half] for weight, half in zip(full.weights, halves, strict=True)]
        self.biases = [bias[:half] for bias, half in zip(full.biases, halves, strict=True)]
        self.activation = activation
        self.input_mirror = input_mirror
        self.output_mirror = output_mirror

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        """Apply the network to the last axis."""
        return _perceptron(*self.dense(), self.activation, x)

    @property
    def sizes(self) -> list[int]:
        """Lengths of input, hidden layers and output."""
        *hidden, last = self.weights
        return [self.weights[0].shape[1], *(2 * weight.shape[0] for weight in hidden), last.shape[0]]

    def dense(self) -> tuple[list[Float[Array, "out in"]], list[Float[Array, " out"]]]:
        """Weights and biases of the layers of the whole network, an ordinary MLP."""
        *hidden, last = self.weights
        weights, biases = [], [jnp.tile(bias, 2) for bias in self.biases[:-1]]
        for i, weight in enumerate(hidden):
            other = self.input_mirror(weight) if i == 0 else _swap_halves(weight)
            weights.append(jnp.concatenate([weight, other]))
        # The output is the mean of what one half says and of the mirror image of what the other half says.
        weights.append(0.5 * (last + self.output_mirror(_swap_halves(last).T).T))
        biases.append(0.5 * (self.biases[-1] + self.output_mirror(self.biases[-1])))
        return weights, biases


def _swap_halves(weight: Float[Array, "out in"]) -> Float[Array, "out in"]:
    return jnp.roll(weight, weight.shape[1] // 2, axis=1)


def _perceptron(weights: list[Array], biases: list[Array], activation: str, x: Array) -> Array:
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        # In full precision: with the TF32 that GPUs round to, a policy would not repeat its own probabilities.
        x = jnp.matmul(x, weight.T, precision=jax.lax.Precision.HIGHEST) + bias
        if i < len(weights) - 1:
            x = ACTIVATIONS[activation](x)
    return x
