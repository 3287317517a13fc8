"""The parts of PPO against NumPy, from the formulas."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.fake_env import FRESH, FakeEnv

from ksim.envs.mirror import SignedPermutation
from ksim.envs.symmetry import Symmetry
from ksim.rl import ppo as ppo_module
from ksim.rl import train_chunk
from ksim.rl.actor_critic import Model, make_model
from ksim.rl.algorithm import are_finite
from ksim.rl.distribution import Normal
from ksim.rl.gae import gae
from ksim.rl.normalizer import Normalizer
from ksim.rl.ppo import (
    PPO,
    Dataset,
    PPOState,
    adapt_learning_rate,
    collect,
    desired_kl,
    limited,
    loss,
    mirrored,
    prepare,
    update,
)

B, A = 40, 2
KEY = jax.random.key(0)


@pytest.fixture
def cfg():
    return PPO(
        num_envs=4,
        num_env_states_per_minibatch=4,
        num_minibatches=6,
        num_learning_epochs=3,
        clip=0.2,
        value_coef=0.7,
        entropy_coef=0.05,
        schedule="fixed",
        learning_rate=1e-2,
        min_learning_rate=1e-4,
        max_learning_rate=1.0,
        desired_kl=0.01,
        desired_kl_decay_steps=None,
        max_grad_norm=0.5,
        init_std=0.5,
        actor_hidden=(8,),
        critic_hidden=(8,),
        activation="tanh",
        symmetry="none",
    )


def network(cfg, key=KEY) -> Model:
    """Actor and critic for the fake env, with outputs that are not near zero and statistics that are not trivial."""
    hidden = {"actor": cfg.actor_hidden, "critic": cfg.critic_hidden}
    sizes = {"actor": 1, "critic": 2}
    model = make_model(
        sizes, A, hidden=hidden, activation=cfg.activation, init_std=cfg.init_std, symmetry=None, key=key
    )
    net = eqx.tree_at(
        lambda n: n.actor.weights, model.net, [20.0 * w / (i + 1) for i, w in enumerate(model.net.actor.weights)]
    )
    normalizer = {
        "actor": Normalizer(jnp.array([3.0]), jnp.array([40.0]), jnp.array(10.0)),
        "critic": Normalizer(jnp.array([3.0, -3.0]), jnp.array([40.0, 30.0]), jnp.array(10.0)),
    }
    return dataclasses.replace(model, net=net, normalizer=normalizer)


def standardized(model, group, raw):
    """By the statistics that a model has, as the networks see it."""
    normalizer = model.normalizer[group]
    x = (np.asarray(raw, np.float64) - np.asarray(normalizer.mean)) / np.sqrt(np.asarray(normalizer.var) + 1e-6)
    return np.clip(x, -10, 10)


def dataset(size, seed=0):
    """Env states of a policy that differs from the network's, with a spread of its own at each: ratios on both sides
    of the clip range."""
    rng = np.random.default_rng(seed)
    as_array = partial(jnp.asarray, dtype=jnp.float32)
    mean, log_std = rng.normal(0, 0.3, size=(size, A)), rng.normal(-0.7, 0.1, size=(size, A))
    return Dataset(
        obs={"actor": as_array(rng.normal(3, 6, (size, 1))), "critic": as_array(rng.normal(0, 6, (size, 2)))},
        action=as_array(rng.normal(0, 0.5, size=(size, A))),
        distribution=Normal(as_array(mean), as_array(log_std)),
        log_prob=as_array(rng.normal(-1.5, 0.2, size=size)),
        advantage=as_array(rng.normal(3, 2, size=size)),
        target=as_array(rng.normal(size=size)),
    )


def forward(mlp, x):
    for i, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        x = x @ np.asarray(weight, np.float64).T + np.asarray(bias)
        x = np.tanh(x) if i < len(mlp.weights) - 1 else x
    return x


def test_the_loss_is_the_papers(cfg):
    """-E[min(r A, clip(r) A)] + c_v E[(V - R)^2] - c_e H with standardized advantages; KL(old || new)."""
    model, batch = network(cfg), dataset(B)
    total, metrics = loss(model.net, model, batch, None, cfg)

    mean = forward(model.net.actor, standardized(model, "actor", batch.obs["actor"]))
    std = np.exp(np.asarray(model.net.log_std))
    log_prob = stats.norm(mean, std).logpdf(batch.action).sum(-1)
    ratio = np.exp(log_prob - np.asarray(batch.log_prob))
    assert (ratio < 0.8).any() and (ratio > 1.2).any() and ((ratio > 0.8) & (ratio < 1.2)).any()
    advantage = (batch.advantage - np.mean(batch.advantage)) / np.std(batch.advantage)
    policy = -np.mean(np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage))
    values = forward(model.net.critic, standardized(model, "critic", batch.obs["critic"]))[:, 0]
    value = np.mean((values - batch.target) ** 2)
    entropy = stats.multivariate_normal(np.zeros(A), np.diag(std**2)).entropy()
    old_mean, old_std = np.asarray(batch.distribution.mean), np.exp(np.asarray(batch.distribution.log_std))
    kl = np.mean(np.sum(np.log(std / old_std) + (old_std**2 + (old_mean - mean) ** 2) / (2 * std**2) - 0.5, axis=-1))
    expected = {
        "policy_loss": policy,
        "value_loss": value,
        "entropy": entropy,
        "kl": kl,
        "clip_fraction": np.mean(np.abs(ratio - 1) > 0.2),
        "ratio_error": np.max(np.abs(ratio - 1)),
        "action_std": 0.5,
    }
    assert set(metrics) == set(expected)
    for name, number in expected.items():
        assert float(metrics[name]) == pytest.approx(float(number), rel=1e-4), name
    assert float(total) == pytest.approx(float(policy + 0.7 * value - 0.05 * entropy), rel=1e-4)


SYMMETRY = Symmetry(
    SignedPermutation(np.array([1, 0]), np.array([-1.0, -1.0], np.float32)),
    {
        "actor": SignedPermutation(np.array([0]), np.array([-1.0], np.float32)),
        "critic": SignedPermutation(np.array([1, 0]), np.array([1.0, 1.0], np.float32)),
    },
)


def test_mirror_images_count_as_much_as_what_they_are_images_of(cfg):
    """The loss of a minibatch and its images is that of both together, each image as probable as its original."""
    model, batch = network(cfg), dataset(B)
    images = mirrored(batch, SYMMETRY)
    np.testing.assert_array_equal(images.obs["critic"], batch.obs["critic"][:, ::-1])
    np.testing.assert_array_equal(images.obs["actor"], -batch.obs["actor"])
    np.testing.assert_array_equal(images.action, -batch.action[:, ::-1])
    np.testing.assert_array_equal(images.distribution.mean, -batch.distribution.mean[:, ::-1])
    np.testing.assert_array_equal(images.distribution.log_std, batch.distribution.log_std[:, ::-1])
    np.testing.assert_array_equal(images.log_prob, batch.log_prob)
    _, both = loss(model.net, model, batch, images, cfg)
    _, alone = loss(model.net, model, batch, None, cfg)
    _, of_images = loss(model.net, model, images, None, cfg)
    assert float(alone["policy_loss"]) != float(of_images["policy_loss"])
    for name in ("policy_loss", "value_loss"):
        assert float(both[name]) == pytest.approx(0.5 * float(alone[name] + of_images[name]), rel=1e-5)
    assert float(both["ratio_error"]) == float(alone["ratio_error"])  # of what the policy really did


def test_augmented_data_make_an_update_symmetric(cfg):
    """After a gradient step on data and their images, a policy that was symmetric still is; without, it is not."""

    def asymmetry(symmetry):
        ppo, state = train_state(dataclasses.replace(cfg, symmetry=symmetry), FakeEnv((5, 5, 5, 5)))
        even = Normalizer(jnp.zeros(1), jnp.full(1, 40.0), jnp.array(10.0))
        net = eqx.tree_at(lambda n: n.actor.weights[-1], state.model.net, replace_fn=jnp.zeros_like)
        model = dataclasses.replace(state.model, net=net, normalizer=state.model.normalizer | {"actor": even})
        after, _ = update(ppo, dataclasses.replace(state, model=model), dataset(24), SYMMETRY)
        obs = jnp.linspace(-20, 20, 9)[:, None]
        act = lambda x: after.model.policy(x)[0].mean  # noqa: E731
        return float(jnp.abs(act(SYMMETRY.obs["actor"](obs)) - SYMMETRY.action(act(obs))).max())

    # The hidden layer is not symmetric, so equal gradients of both halves leave a remainder; it is far smaller.
    assert asymmetry("augment") < 0.5 * asymmetry("none")


def global_norm(tree):
    return np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree)))


def test_a_clipped_ratio_has_no_gradient(cfg):
    """A positive advantage beyond 1 + clip, and a negative one below 1 - clip, pull no further."""
    model = network(cfg)
    one = dataset(2)
    distribution, _ = model.policy(one.obs["actor"])
    log_prob = distribution.log_prob(one.action)
    entropy_free = dataclasses.replace(cfg, entropy_coef=0.0, value_coef=0.0)

    def gradient(log_ratio):
        batch = dataclasses.replace(one, log_prob=log_prob - jnp.array(log_ratio), advantage=jnp.array([1.0, -1.0]))
        grads, _ = eqx.filter_grad(loss, has_aux=True)(model.net, model, batch, None, entropy_free)
        return global_norm(grads)

    assert gradient([0.5, -0.5]) == 0.0  # both have gone far enough in their direction
    assert gradient([-0.5, 0.5]) > 0.1  # both have gone the wrong way
    assert gradient([0.0, 0.0]) > 0.1


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.021, 0.1 / 1.5),  # more than twice the desired: slower
        (0.019, 0.1),
        (0.0051, 0.1),
        (0.0049, 0.1 * 1.5),  # less than half: faster
        (0.0, 0.1 * 1.5),
        (np.inf, 0.1 / 1.5),
    ],
)
def test_the_learning_rate_follows_the_kl(cfg, kl, expected):
    rate = adapt_learning_rate(jnp.float32(0.1), jnp.float32(kl), jnp.float32(0.01), cfg)
    assert float(rate) == pytest.approx(expected)


def test_the_learning_rate_keeps_its_bounds(cfg):
    low, high = jnp.float32(1.2e-4), jnp.float32(0.9)
    assert float(adapt_learning_rate(low, jnp.float32(1.0), jnp.float32(0.01), cfg)) == pytest.approx(1e-4)
    assert float(adapt_learning_rate(high, jnp.float32(0.001), jnp.float32(0.01), cfg)) == pytest.approx(1.0)


def test_the_desired_kl_may_fall_with_the_steps(cfg):
    """By half after as many env steps as its setting says; D is 24."""
    assert float(desired_kl(cfg, jnp.int32(1000))) == pytest.approx(0.01)
    falling = dataclasses.replace(cfg, desired_kl_decay_steps=2400.0)
    values = [float(desired_kl(falling, jnp.int32(n))) for n in (0, 100, 300)]
    np.testing.assert_allclose(values, [0.01, 0.005, 0.0025], rtol=1e-5)


def test_standard_deviations_may_be_held_below_what_falls_with_the_steps(cfg):
    """From init_std to its e-th part after as many env steps as the setting says; D is 24. A training obeys it."""
    held = dataclasses.replace(cfg, init_std=0.6, std_decay_steps=2400.0)
    log_std = jnp.log(jnp.array([0.5, 0.2]))
    for iterations, expected in (
        (0, [0.5, 0.2]),
        (100, [0.6 / np.e, 0.2]),
        (200, [0.6 / np.e**2, 0.6 / np.e**2]),
        (10_000, [0.02, 0.02]),
    ):
        found = jnp.exp(limited(held, log_std, jnp.int32(iterations)))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert limited(cfg, log_std, jnp.int32(300)) is log_std
    env = FakeEnv(LENGTHS)
    held, state = train_state(dataclasses.replace(held, std_decay_steps=24.0), env)
    after, _ = jax.jit(partial(held.iterate, env))(state)
    assert float(jnp.exp(after.model.net.log_std).max()) <= 0.6 / np.e * (1 + 1e-5)


def train_state(cfg, env):
    model = network(cfg)
    env_carry, obs = env.reset(KEY, cfg.num_envs)
    return cfg, PPOState(
        model=model,
        opt_state=cfg.optimizer.init(eqx.filter(model.net, eqx.is_array)),
        learning_rate=jnp.float32(cfg.learning_rate),
        env_carry=env_carry,
        obs=obs,
        policy_key=jax.random.key(1),
        minibatch_key=jax.random.key(2),
        num_iterations=jnp.int32(0),
    )


@pytest.mark.parametrize(("minibatches", "epochs"), [(1, 1), (3, 1), (1, 3)])
def test_the_first_minibatch_of_an_update_leaves_the_learning_rate_alone(cfg, minibatches, epochs):
    """By its index, whatever KL is measured there: rounding may make it anything but 0."""
    cfg = dataclasses.replace(
        cfg, num_env_states_per_minibatch=24 // minibatches, num_minibatches=minibatches, num_learning_epochs=epochs
    )
    ppo, state = train_state(dataclasses.replace(cfg, schedule="adaptive", desired_kl=1e-9), FakeEnv((5, 5, 5, 5)))
    after, _ = update(ppo, state, dataset(24))  # of another policy: each KL is far above the desired one
    assert float(after.learning_rate) == pytest.approx(1e-2 / 1.5 ** (minibatches * epochs - 1), rel=1e-5)


def test_one_gradient_step_is_adams(cfg):
    """One epoch of one minibatch: a clipped gradient, Adam's first step (m / (sqrt(v) + eps)), the learning rate."""
    cfg = dataclasses.replace(cfg, num_env_states_per_minibatch=24, num_minibatches=1, num_learning_epochs=1)
    ppo, state = train_state(cfg, FakeEnv((5, 5, 5, 5)))
    data = dataset(24)
    after, metrics = update(ppo, state, data)
    grads, _ = eqx.filter_grad(loss, has_aux=True)(state.model.net, state.model, data, None, cfg)
    norm = global_norm(grads)
    assert norm > 0.5 and float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-3)
    for new, old, grad in zip(*map(jax.tree.leaves, (after.model.net, state.model.net, grads)), strict=True):
        g = np.asarray(grad, np.float64) * 0.5 / norm
        np.testing.assert_allclose(new, old - 1e-2 * g / (np.abs(g) + 1e-5), rtol=1e-3, atol=1e-5)


def test_each_epoch_sees_every_env_state_once(cfg, monkeypatch):
    """In minibatches of B, in another order in every epoch and in every update."""
    seen = []
    original = ppo_module.loss

    def spy(net, model, batch, *args):
        jax.debug.callback(lambda ids: seen.append(np.asarray(ids)), batch.target, ordered=True)
        return original(net, model, batch, *args)

    monkeypatch.setattr(ppo_module, "loss", spy)
    ppo, state = train_state(cfg, FakeEnv((5, 5, 5, 5)))
    data = dataclasses.replace(dataset(24), target=jnp.arange(24.0))
    run = jax.jit(partial(update, ppo))
    after, _ = run(state, data)
    run(after, data)
    jax.effects_barrier()
    epochs = np.array(seen).reshape(2, 3, 24)  # updates, epochs, env states
    assert [len(ids) for ids in seen] == [4] * 36
    orders = {tuple(epoch) for update_ in epochs for epoch in update_}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(24)) for order in orders)


def collected(cfg, env):
    ppo, state = train_state(cfg, env)
    return state, *jax.jit(partial(collect, env, ppo))(state)


def value(state, raw):
    """V of a raw critic observation, by the statistics that the rollout started with."""
    return forward(state.model.net.critic, standardized(state.model, "critic", raw))[..., 0]


LENGTHS = (2, 3, 100, 1)


def shown(t, length):
    """What the fake env shows before and after step t: whole episodes from 0, then from FRESH."""
    episode, age = divmod(t, length)
    first = 0.0 if episode == 0 else FRESH
    return first + age, first + age + 1


@pytest.mark.parametrize("is_finite_horizon", [False, True])
def test_a_rollout_bootstraps_from_the_true_next_observation(cfg, is_finite_horizon):
    """Where an episode is cut, the next value is that of where the env really went, not of the fresh episode."""
    env = FakeEnv(LENGTHS, is_finite_horizon)
    state, _, data, log = collected(cfg, env)
    flat, values = prepare(cfg, state.model, data)
    num_steps = cfg.rollout_length
    assert data.reward.shape == (num_steps, 4) and num_steps == 6
    ends = 0
    next_values = np.zeros((num_steps, 4))
    for t in range(num_steps):
        for e, length in enumerate(LENGTHS):
            before, after = shown(t, length)
            over = (t + 1) % length == 0
            ends += over
            assert values[t, e] == pytest.approx(value(state, [before, -before]), rel=1e-4, abs=1e-5)
            next_values[t, e] = value(state, [after, -after])
            assert data.next_obs["critic"][t, e].tolist() == [after, -after]
            assert bool(data.done[t, e]) == over
            # A finite horizon is part of the task: nothing comes after it.
            assert bool(data.terminated[t, e]) == (over and (e % 2 == 1 or is_finite_horizon))
            assert data.reward[t, e] == pytest.approx(after + float(data.action[t, e, 0]), rel=1e-5)
            assert data.obs["actor"][t, e, 0] == before
    assert log["episodes"] == ends
    advantage, target = gae(data.reward, values, next_values, data.terminated, data.done, gamma=cfg.gamma, lam=cfg.lam)
    np.testing.assert_allclose(flat.advantage, advantage.reshape(-1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(flat.target, target.reshape(-1), rtol=1e-3, atol=1e-3)


def test_a_rollout_remembers_the_policy_that_made_it(cfg):
    """Its distributions, and log densities of the actions under the policy of the rollout."""
    state, after, data, _ = collected(cfg, FakeEnv(LENGTHS))
    mean = forward(state.model.net.actor, standardized(state.model, "actor", data.obs["actor"]))
    np.testing.assert_allclose(data.distribution.mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.exp(data.distribution.log_std), np.full((6, 4, A), 0.5), rtol=1e-5)
    noise = (np.asarray(data.action) - mean) / 0.5
    assert np.unique(noise).size == noise.size and 0.5 < noise.std() < 1.5
    assert not np.array_equal(jax.random.key_data(after.policy_key), jax.random.key_data(state.policy_key))
    # Flattened, each env state keeps what belongs to it.
    flat, _ = prepare(cfg, state.model, data)
    log_prob = stats.norm(mean, 0.5).logpdf(data.action).sum(-1)
    np.testing.assert_allclose(flat.log_prob, log_prob.reshape(-1), rtol=1e-3, atol=1e-3)
    assert flat.action.shape == (24, A)
    np.testing.assert_array_equal(flat.action, data.action.reshape(24, A))
    np.testing.assert_array_equal(flat.obs["actor"][:, 0], data.obs["actor"].reshape(-1))
    np.testing.assert_array_equal(flat.distribution.mean, data.distribution.mean.reshape(24, A))


def test_the_statistics_are_frozen_in_an_iteration_and_then_merge_the_rollout(cfg):
    """The first minibatch's ratio is 1, in the iterations after an update of the statistics, too."""
    env = FakeEnv(LENGTHS)
    ppo, state = train_state(cfg, env)
    iterate = jax.jit(partial(ppo.iterate, env))
    seen_by = jax.jit(partial(collect, env, ppo))
    for number in range(1, 4):
        _, seen, _ = seen_by(state)
        after, metrics = iterate(state)
        assert float(metrics["ppo/first_ratio_error"]) < 1e-5
        assert not np.array_equal(after.model.net.log_std, state.model.net.log_std)
        for group, before in state.model.normalizer.items():
            obs = np.asarray(seen.obs[group], np.float64).reshape(24, -1)
            count = float(before.count)
            mean = (count * np.asarray(before.mean) + obs.sum(0)) / (count + 24)
            square = count * (np.asarray(before.var) + np.asarray(before.mean) ** 2) + (obs**2).sum(0)
            merged = after.model.normalizer[group]
            np.testing.assert_allclose(merged.mean, mean, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(merged.var, square / (count + 24) - mean**2, rtol=1e-3)
            assert float(merged.count) == 10 + 24 * number
        assert after.num_iterations == number
        state = after


def test_a_chunk_sums_the_log_and_averages_the_metrics(cfg):
    env = FakeEnv(LENGTHS)
    ppo, state = train_state(cfg, env)
    iterate = jax.jit(partial(ppo.iterate, env))
    chunk = jax.jit(partial(train_chunk, env, ppo, num_iterations=3))
    after, numbers, finite = chunk(state)
    assert set(finite) == {
        "model",
        "opt_state",
        "learning_rate",
        "policy_key",
        "minibatch_key",
        "num_iterations",
    } and all(finite.values())
    found = []
    for _ in range(3):
        state, metrics = iterate(state)
        found.append(metrics)
    assert after.num_iterations == 3
    assert float(numbers["env/episodes"]) == sum(float(metrics["env/episodes"]) for metrics in found) > 0
    assert set(numbers) == set(found[0])
    for name in ("ppo/kl", "ppo/value_loss", "ppo/explained_variance", "ppo/reward"):
        expected = np.mean([float(metrics[name]) for metrics in found])
        assert float(numbers[name]) == pytest.approx(expected, rel=1e-3), name


@pytest.mark.parametrize("broken", ["model", "opt_state", "learning_rate"])
def test_what_is_not_finite_is_seen_part_by_part(cfg, broken):
    _, state = train_state(cfg, FakeEnv(LENGTHS))
    leaves, structure = jax.tree.flatten(getattr(state, broken))
    last = max(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating))
    leaves[last] = jnp.full_like(leaves[last], jnp.inf)
    state = dataclasses.replace(state, **{broken: jax.tree.unflatten(structure, leaves)})
    assert [name for name, is_finite in are_finite(state).items() if not is_finite] == [broken]


def test_policy_and_value_are_computed_in_full_precision(cfg):
    """Every matrix product of an iteration, forward and backward: GPUs would else round its factors to ten bits."""
    env = FakeEnv(LENGTHS)
    ppo, state = train_state(cfg, env)
    program = str(jax.make_jaxpr(partial(ppo.iterate, env))(state))
    products = program.count("dot_general[")
    assert products >= 10
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
