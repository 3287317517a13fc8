"""Whole iterations on real envs: the C engine with K-Bot, MJX with the cart-pole."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from support.envs import same

from ksim.config.schema import Config
from ksim.envs import Env, make_env
from ksim.evaluation.episodes import evaluate
from ksim.rl import PPOState, train_chunk
from ksim.rl.ppo import collect


@dataclass(frozen=True)
class Learner:
    """An experiment's programs, compiled as a training compiles them."""

    env: Env
    init: Callable[[jax.Array], PPOState]
    chunk: Any

    @classmethod
    def of(cls, cfg: Config, engine: str) -> "Learner":
        env = make_env(cfg.task, engine, threads=2)
        ppo = cfg.algo
        chunk = jax.jit(partial(train_chunk, env, ppo, num_iterations=1), donate_argnums=0)
        return cls(env, jax.jit(partial(ppo.init, env)), chunk)

    def train(self, seed: int, iterations: int) -> tuple[PPOState, list[dict[str, float]]]:
        state, numbers = self.init(jax.random.key(seed)), []
        for _ in range(iterations):
            state, metrics, _ = self.chunk(state)
            numbers.append({name: float(x) for name, x in metrics.items()})
        return state, numbers


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def learner(request, composed) -> Learner:
    task = {"mujoco": "kbot_standing", "mjx": "cartpole_balance"}[request.param]
    return Learner.of(composed[task], request.param)


@pytest.fixture(scope="module")
def trained(learner):
    return learner.train(0, 5)


def test_a_training_starts_at_random_ages(learner):
    """So that its first time-outs do not come all at once."""
    assert len(set(learner.init(jax.random.key(0)).env_carry.envs.episode_step.tolist())) > 4


@pytest.mark.parametrize("is_finite_horizon", [True, False])
def test_only_a_finite_horizon_ends_without_a_value_after_it(cartpole_cfg, is_finite_horizon):
    """Time-outs are terminal for the learner where the horizon is finite, and bootstrap where it is not."""
    cfg = cartpole_cfg
    cfg.task.is_finite_horizon, cfg.task.episode_length_s = is_finite_horizon, 0.1
    env = make_env(cfg.task, "mujoco", threads=1)
    ppo = cfg.algo
    rollout = jax.jit(lambda key: collect(env, ppo, ppo.init(env, key))[1])(jax.random.key(0))
    timed_out = rollout.done & (np.asarray(rollout.terminated) == is_finite_horizon)
    assert rollout.done.sum() >= 8 and (timed_out == rollout.done).all()


def test_the_chunk_compiles_exactly_once(learner, trained):
    """What goes out has the types of what comes in, weak ones included, from the first call on."""
    assert learner.chunk._cache_size() == 1


def test_the_same_seed_gives_the_same_bits(learner, trained):
    """After five iterations: networks, optimizer, statistics, envs and random streams; another seed gives others."""
    state, numbers = learner.train(0, 5)
    assert same(state, trained[0])
    assert numbers == trained[1]
    other, _ = learner.train(1, 5)
    assert not same(other.model, trained[0].model)


def test_the_first_minibatch_has_a_ratio_of_one(trained):
    """In every iteration: the statistics and the policy of the rollout are those of the update."""
    errors = [metrics["ppo/first_ratio_error"] for metrics in trained[1]]
    assert len(errors) == 5 and max(errors) < 1e-5


def test_iterations_learn_and_stay_finite(learner, trained):
    state, numbers = trained
    assert state.num_iterations == 5
    assert all(np.isfinite(list(metrics.values())).all() for metrics in numbers)
    fresh = learner.init(jax.random.key(0))
    assert not same(state.model.net, fresh.model.net)
    assert float(state.model.normalizer["actor"].count) == 5 * 64
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state.model))


def test_an_evaluation_changes_no_training(composed):
    """Training on after an evaluation gives the same bits as without it: streams are apart, the engine is shared."""
    learner = Learner.of(composed["cartpole_balance"], "mujoco")
    without, _ = learner.train(0, 3)
    state = learner.init(jax.random.key(0))
    play = jax.jit(partial(evaluate, learner.env, num_envs=8, num_steps=5))
    for seed in range(3):
        result = play(state.model.policy, jax.random.key(seed))
        assert result.values["length"].tolist() == [5.0] * 8
        state, *_ = learner.chunk(state)
    assert same(state, without)
