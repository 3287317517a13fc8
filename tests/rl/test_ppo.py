"""The parts of PPO against NumPy, from the formulas."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from support.fake_env import FRESH, FakeEnv

from ksim.rl import ppo as ppo_module
from ksim.rl.networks import make_actor_critic
from ksim.rl.normalizer import Normalizer
from ksim.rl.ppo import (
    PPO,
    Dataset,
    TrainState,
    adapt_learning_rate,
    collect,
    desired_kl,
    flatten,
    loss,
    train_chunk,
    train_iteration,
    update,
)

B, A = 40, 2
KEY = jax.random.key(0)


@pytest.fixture
def cfg(kbot_cfg):
    return dataclasses.replace(
        kbot_cfg.algo,
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
        actor_hidden=[8],
        critic_hidden=[8],
        activation="tanh",
        symmetry="none",
    )


def network(cfg, key=KEY):
    """Actor and critic for the fake env, with outputs that are not near zero."""
    net = make_actor_critic(cfg, 1, 2, A, symmetry=None, key=key)
    return eqx.tree_at(lambda n: n.actor.weights, net, [20.0 * w / (i + 1) for i, w in enumerate(net.actor.weights)])


def dataset(size, seed=0):
    """Env states of a policy that differs from the network's: ratios on both sides of the clip range."""
    rng = np.random.default_rng(seed)
    fields = {
        "actor_obs": rng.normal(size=(size, 1)),
        "critic_obs": rng.normal(size=(size, 2)),
        "action": rng.normal(0, 0.5, size=(size, A)),
        "mean": rng.normal(0, 0.3, size=(size, A)),
        "log_prob": rng.normal(-1.5, 0.2, size=size),
        "advantage": rng.normal(3, 2, size=size),
        "target": rng.normal(size=size),
    }
    return Dataset(**{name: jnp.asarray(value, jnp.float32) for name, value in fields.items()})


def forward(mlp, x):
    for i, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        x = x @ np.asarray(weight, np.float64).T + np.asarray(bias)
        x = np.tanh(x) if i < len(mlp.weights) - 1 else x
    return x


def test_the_loss_is_the_papers(cfg):
    """-E[min(r A, clip(r) A)] + c_v E[(V - R)^2] - c_e H with standardized advantages; KL(old || new)."""
    net, batch = network(cfg), dataset(B)
    old_log_std = jnp.array([-0.6, -0.9])
    total, metrics = loss(net, batch, old_log_std, cfg)

    mean, std = forward(net.actor, np.asarray(batch.actor_obs)), np.exp(np.asarray(net.log_std))
    log_prob = stats.norm(mean, std).logpdf(batch.action).sum(-1)
    ratio = np.exp(log_prob - np.asarray(batch.log_prob))
    assert (ratio < 0.8).any() and (ratio > 1.2).any() and ((ratio > 0.8) & (ratio < 1.2)).any()
    advantage = (batch.advantage - np.mean(batch.advantage)) / np.std(batch.advantage)
    policy = -np.mean(np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage))
    value = np.mean((forward(net.critic, np.asarray(batch.critic_obs))[:, 0] - batch.target) ** 2)
    entropy = stats.multivariate_normal(np.zeros(A), np.diag(std**2)).entropy()
    old_std = np.exp(np.asarray(old_log_std))
    kl = np.mean(np.sum(np.log(std / old_std) + (old_std**2 + (batch.mean - mean) ** 2) / (2 * std**2) - 0.5, axis=-1))
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


def global_norm(tree):
    return np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree)))


def test_a_clipped_ratio_has_no_gradient(cfg):
    """A positive advantage beyond 1 + clip, and a negative one below 1 - clip, pull no further."""
    net = network(cfg)
    one = dataset(2)
    distribution, _ = net.policy(one.actor_obs)
    log_prob = distribution.log_prob(one.action)
    entropy_free = dataclasses.replace(cfg, entropy_coef=0.0, value_coef=0.0)

    def gradient(log_ratio):
        batch = dataclasses.replace(one, log_prob=log_prob - jnp.array(log_ratio), advantage=jnp.array([1.0, -1.0]))
        grads, _ = eqx.filter_grad(loss, has_aux=True)(net, batch, jnp.zeros(A), entropy_free)
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
        (0.0, 0.1),  # the first minibatch of an update: nothing is known yet
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


def learner(cfg):
    chain = optax.chain(optax.clip_by_global_norm(cfg.max_grad_norm), optax.scale_by_adam(eps=1e-5))
    return PPO(cfg, chain, None)


def train_state(cfg, env):
    ppo, net = learner(cfg), network(cfg)
    env_state, obs = env.reset(KEY, cfg.num_envs)
    # Statistics that are not trivial, so that forgetting them would show.
    normalizer = {
        "actor": Normalizer(jnp.array([3.0]), jnp.array([40.0]), jnp.array(10.0)),
        "critic": Normalizer(jnp.array([3.0, -3.0]), jnp.array([40.0, 30.0]), jnp.array(10.0)),
    }
    return ppo, TrainState(
        net=net,
        opt_state=ppo.optimizer.init(eqx.filter(net, eqx.is_array)),
        learning_rate=jnp.float32(cfg.learning_rate),
        normalizer=normalizer,
        env_state=env_state,
        obs=obs,
        policy_key=jax.random.key(1),
        minibatch_key=jax.random.key(2),
        num_iterations=jnp.int32(0),
    )


def test_one_gradient_step_is_adams(cfg):
    """One epoch of one minibatch: a clipped gradient, Adam's first step (m / (sqrt(v) + eps)), the learning rate."""
    cfg = dataclasses.replace(cfg, num_env_states_per_minibatch=24, num_minibatches=1, num_learning_epochs=1)
    ppo, state = train_state(cfg, FakeEnv((5, 5, 5, 5)))
    data = dataset(24)
    after, metrics = update(ppo, state, data)
    old_log_std = state.net.log_std
    grads, _ = eqx.filter_grad(loss, has_aux=True)(state.net, data, old_log_std, cfg)
    norm = global_norm(grads)
    assert norm > 0.5 and float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-3)
    for new, old, grad in zip(*map(jax.tree.leaves, (after.net, state.net, grads)), strict=True):
        g = np.asarray(grad, np.float64) * 0.5 / norm
        np.testing.assert_allclose(new, old - 1e-2 * g / (np.abs(g) + 1e-5), rtol=1e-3, atol=1e-5)


def test_each_epoch_sees_every_env_state_once(cfg, monkeypatch):
    """In minibatches of B, in another order in every epoch and in every update."""
    seen = []
    original = ppo_module.loss

    def spy(net, batch, *args):
        jax.debug.callback(lambda ids: seen.append(np.asarray(ids)), batch.target, ordered=True)
        return original(net, batch, *args)

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


def rollout(cfg, env):
    ppo, state = train_state(cfg, env)
    return state, *jax.jit(partial(collect, env, ppo))(state)


def value(state, raw):
    """V of a raw critic observation, by the statistics that the rollout started with."""
    normalizer = state.normalizer["critic"]
    x = (np.asarray(raw) - np.asarray(normalizer.mean)) / np.sqrt(np.asarray(normalizer.var) + 1e-6)
    return forward(state.net.critic, x)[..., 0]


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
    state, _, data, log, seen = rollout(cfg, env)
    num_steps = cfg.rollout_length
    assert data.reward.shape == (num_steps, 4) and num_steps == 6
    ends = 0
    for t in range(num_steps):
        for e, length in enumerate(LENGTHS):
            before, after = shown(t, length)
            over = (t + 1) % length == 0
            ends += over
            assert data.value[t, e] == pytest.approx(value(state, [before, -before]), rel=1e-4, abs=1e-5)
            assert data.next_value[t, e] == pytest.approx(value(state, [after, -after]), rel=1e-4, abs=1e-5)
            assert bool(data.done[t, e]) == over
            # A finite horizon is part of the task: nothing comes after it.
            assert bool(data.terminated[t, e]) == (over and (e % 2 == 1 or is_finite_horizon))
            assert data.reward[t, e] == pytest.approx(after + float(data.action[t, e, 0]), rel=1e-5)
            assert seen["actor"][t, e, 0] == before
    assert log["episodes"] == ends


def test_a_rollout_remembers_the_policy_that_made_it(cfg):
    """Normalized observations, means, and log densities of the actions under the policy of the rollout."""
    state, after, data, _, seen = rollout(cfg, FakeEnv(LENGTHS))
    normalizer = state.normalizer["actor"]
    obs = np.clip((seen["actor"] - normalizer.mean) / np.sqrt(normalizer.var + 1e-6), -10, 10)
    np.testing.assert_allclose(data.actor_obs, obs, rtol=1e-4, atol=1e-5)
    mean = forward(state.net.actor, obs)
    np.testing.assert_allclose(data.mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(data.log_prob, stats.norm(mean, 0.5).logpdf(data.action).sum(-1), rtol=1e-3, atol=1e-3)
    noise = (np.asarray(data.action) - mean) / 0.5
    assert np.unique(noise).size == noise.size and 0.5 < noise.std() < 1.5
    assert not np.array_equal(jax.random.key_data(after.policy_key), jax.random.key_data(state.policy_key))
    # Flattened, each env state keeps what belongs to it.
    flat = flatten(data, 10 * data.reward, data.value)
    assert flat.action.shape == (24, A)
    np.testing.assert_array_equal(flat.advantage, 10 * data.reward.reshape(-1))
    np.testing.assert_array_equal(flat.actor_obs[:, 0], data.actor_obs.reshape(-1))


def test_the_statistics_are_frozen_in_an_iteration_and_then_merge_the_rollout(cfg):
    """The first minibatch's ratio is 1, in the iterations after an update of the statistics, too."""
    env = FakeEnv(LENGTHS)
    ppo, state = train_state(cfg, env)
    iterate = jax.jit(partial(train_iteration, env, ppo))
    seen_by = jax.jit(partial(collect, env, ppo))
    for number in range(1, 4):
        _, _, _, seen = seen_by(state)
        after, _, metrics = iterate(state)
        assert float(metrics["first_ratio_error"]) < 1e-5
        assert not np.array_equal(after.net.log_std, state.net.log_std)
        for group, before in state.normalizer.items():
            obs = np.asarray(seen[group], np.float64).reshape(24, -1)
            count = float(before.count)
            mean = (count * np.asarray(before.mean) + obs.sum(0)) / (count + 24)
            square = count * (np.asarray(before.var) + np.asarray(before.mean) ** 2) + (obs**2).sum(0)
            merged = after.normalizer[group]
            np.testing.assert_allclose(merged.mean, mean, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(merged.var, square / (count + 24) - mean**2, rtol=1e-3)
            assert float(merged.count) == 10 + 24 * number
        assert after.num_iterations == number
        state = after


def test_a_chunk_sums_the_log_and_averages_the_metrics(cfg):
    env = FakeEnv(LENGTHS)
    ppo, state = train_state(cfg, env)
    iterate = jax.jit(partial(train_iteration, env, ppo))
    chunk = jax.jit(partial(train_chunk, env, ppo, num_iterations=3))
    after, numbers = chunk(state)
    logs, metrics = [], []
    for _ in range(3):
        state, log, metric = iterate(state)
        logs.append(log)
        metrics.append(metric)
    assert after.num_iterations == 3
    assert float(numbers["env/episodes"]) == sum(float(log["episodes"]) for log in logs) > 0
    assert set(numbers) == {"env/episodes"} | {f"ppo/{name}" for name in metrics[0]}
    for name in ("kl", "value_loss", "explained_variance", "reward"):
        expected = np.mean([float(metric[name]) for metric in metrics])
        assert float(numbers[f"ppo/{name}"]) == pytest.approx(expected, rel=1e-3), name
