"""Networks against NumPy, and the symmetry that is built into them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.envs import kbot_task

from ksim.envs import make_env
from ksim.envs.mirror import SignedPermutation
from ksim.envs.symmetry import Symmetry
from ksim.errors import ConfigError
from ksim.rl import PPO
from ksim.rl.actor_critic import GaussianPolicy, Model, make_model
from ksim.rl.networks import MLP, MirrorMLP

KEY = jax.random.key(0)
ACTIVATIONS = {
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_matrix_products(activation):
    net = MLP([3, 8, 6, 2], activation, last_scale=1.0, key=KEY)
    net = jax.tree.map(lambda x: x + 0.1, net)  # biases that are not zero
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    expected = x
    for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        expected = expected @ np.asarray(weight).T + np.asarray(bias)
        if i < 2:
            expected = ACTIVATIONS[activation](expected)
    np.testing.assert_allclose(net(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_weights_are_orthogonal_and_the_last_layer_small():
    net = MLP([4, 32, 16, 2], "elu", last_scale=0.01, key=KEY)
    for weight, gain in zip(net.weights, (np.sqrt(2), np.sqrt(2), 0.01), strict=True):
        short = np.asarray(weight if weight.shape[0] < weight.shape[1] else weight.T)
        np.testing.assert_allclose(short @ short.T, gain**2 * np.eye(len(short)), atol=1e-5)
    assert not any(np.asarray(bias).any() for bias in net.biases)


def random_mirror(size, rng):
    """Pairs that swap, with signs, and a few elements that stay or change their sign."""
    index = np.arange(size)
    sign = rng.choice([-1.0, 1.0], size).astype(np.float32)
    for a, b in zip(range(0, size - 2, 2), range(1, size - 1, 2), strict=True):
        index[a], index[b] = b, a
        sign[b] = sign[a]
    return SignedPermutation(index, sign)


def randomized(net):
    """The same network with weights and biases of all sizes."""
    leaves, structure = jax.tree.flatten(net)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(k, x.shape) * 0.5 for k, x in zip(keys, leaves, strict=True)]
    )


def test_a_mirrored_mlp_commutes_with_the_mirror():
    """f(mirrored x) = mirrored f(x), to 1e-5, whatever the weights are; a plain MLP does not."""
    rng = np.random.default_rng(1)
    x_mirror, y_mirror = random_mirror(9, rng), random_mirror(4, rng)
    x = jnp.asarray(rng.normal(size=(50, 9)), jnp.float32)
    np.testing.assert_array_equal(x_mirror(x_mirror(x)), x)
    net = randomized(MirrorMLP([9, 16, 12, 4], "elu", x_mirror, y_mirror, last_scale=1.0, key=KEY))
    np.testing.assert_allclose(net(x_mirror(x)), y_mirror(net(x)), atol=1e-5)
    assert np.abs(net(x_mirror(x)) - net(x)).max() > 0.5
    plain = randomized(MLP([9, 16, 12, 4], "elu", last_scale=1.0, key=KEY))
    assert np.abs(plain(x_mirror(x)) - y_mirror(plain(x))).max() > 0.5


def test_its_halves_are_different():
    """It is no network that ignores the sides: hidden units of one half differ from those of the other, and left
    outputs from right ones; it has half the parameters of the MLP that it is."""
    rng = np.random.default_rng(2)
    x_mirror, y_mirror = random_mirror(8, rng), random_mirror(4, rng)
    net = MirrorMLP([8, 16, 12, 4], "elu", x_mirror, y_mirror, last_scale=1.0, key=KEY)
    weights, _ = net.dense()
    assert [w.shape for w in weights] == [(16, 8), (12, 16), (4, 12)]
    for weight in weights[:2]:
        half = len(weight) // 2
        assert np.abs(weight[:half] - weight[half:]).max() > 0.1
    y = net(jnp.asarray(rng.normal(size=(50, 8)), jnp.float32))
    assert np.linalg.matrix_rank(np.asarray(y), tol=1e-3) == 4
    assert [w.shape[0] for w in net.weights] == [8, 6, 4]
    assert np.linalg.matrix_rank(np.asarray(weights[0])) == 8


def model(symmetry: Symmetry | None = None) -> Model:
    hidden = {"actor": [8], "critic": [8]}
    return make_model(
        {"actor": 6, "critic": 7}, 4, hidden=hidden, activation="elu", init_std=0.4, symmetry=symmetry, key=KEY
    )


def test_a_symmetric_policy_and_value():
    """Mean actions and their standard deviations are mirrored with the observation, the value stays."""
    rng = np.random.default_rng(3)
    symmetry = Symmetry(random_mirror(4, rng), {"actor": random_mirror(6, rng), "critic": random_mirror(7, rng)})
    symmetric = model(symmetry)
    symmetric = dataclasses.replace(symmetric, net=randomized(symmetric.net))
    obs, critic_obs = (jnp.asarray(rng.normal(size=(20, n)), jnp.float32) for n in (6, 7))
    here, there = symmetric.policy(obs)[0], symmetric.policy(symmetry.obs["actor"](obs))[0]
    np.testing.assert_allclose(there.mean, symmetry.action(here.mean), atol=1e-5)
    np.testing.assert_allclose(there.log_std, here.log_std[:, symmetry.action.index], atol=1e-6)
    assert np.abs(symmetric.net.log_std[0] - symmetric.net.log_std[1]) > 0.01  # tied by the policy, not by chance
    value = symmetric.value(critic_obs)
    np.testing.assert_allclose(symmetric.value(symmetry.obs["critic"](critic_obs)), value, atol=1e-5)
    assert np.std(value) > 0.1


def test_a_fresh_policy_is_near_zero_with_the_configured_spread():
    fresh = model()
    distribution, carry = fresh.policy(jnp.asarray(np.random.default_rng(0).normal(size=(100, 6)), jnp.float32))
    assert carry == () == fresh.policy.init_carry(5)
    assert np.abs(distribution.mean).max() < 0.1 and distribution.mode() is distribution.mean
    np.testing.assert_allclose(np.exp(distribution.log_std), 0.4, rtol=1e-5)
    assert fresh.value(jnp.ones((3, 7))).shape == (3,)


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_a_policy_is_made_again_of_what_it_says_of_itself(is_symmetric):
    """The same structure and shapes, from plain JSON: what a checkpoint's file is read into."""
    rng = np.random.default_rng(4)
    symmetry = Symmetry(random_mirror(4, rng), {"actor": random_mirror(6, rng), "critic": random_mirror(7, rng)})
    policy = model(symmetry if is_symmetric else None).policy
    again = GaussianPolicy.from_spec(json.loads(json.dumps(policy.spec())))
    assert jax.tree.structure(again) == jax.tree.structure(policy)
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, policy)


def test_what_networks_cannot_read_is_refused():
    gravity = {"g": {"_target_": "ksim.mdp.observations.projected_gravity"}}
    actor = {"actor": {"terms": gravity, "concatenate": False}, "critic": {"terms": gravity}}
    with pytest.raises(ConfigError, match=r"task\.observations\.actor\.concatenate: must be true"):
        PPO().check(make_env(kbot_task(observations=actor), "mujoco"))
    with pytest.raises(ConfigError, match=r"task\.observations: the group 'critic' is missing"):
        PPO().check(make_env(kbot_task(observations={"actor": {"terms": gravity}}), "mujoco"))
    with pytest.raises(ValueError, match=r"critic_hidden: widths must be even"):
        PPO(symmetry="equivariant", critic_hidden=(8, 5))
