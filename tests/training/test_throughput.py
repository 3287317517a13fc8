"""Where a training's time goes adds up. Nothing is timed."""

import jax
import pytest
from support.bench import SMALL, check

from ksim.config.compose import compose
from ksim.training.experiment import build
from ksim.training.throughput import carry_bytes, measure, parts


def test_mjx_is_compared_with_the_same_ceiling():
    check(measure(build(compose([*SMALL, "physics=mjx"])), repeats=1, warmup=1), "mjx")


def test_env_states_are_counted_by_their_leaves():
    experiment = build(compose(SMALL))
    state = experiment.algorithm.init(experiment.env, jax.random.key(0))
    one_key = 8  # two 32-bit words
    physics = state.env_carry.envs.physics
    counted = carry_bytes(physics) + 16 * one_key
    assert carry_bytes(physics) == sum(x.size for x in jax.tree.leaves(physics)) * 4
    assert counted < carry_bytes(state.env_carry) < 16 * 2000


def test_parts_add_up_to_an_iteration():
    seconds = {"physics": 5.0, "env": 8.0, "rollout": 9.0, "train": 13.0}
    found = parts(seconds, {"physics": 4.0, "env": 4.5}, "mujoco")
    assert {name: part["seconds"] for name, part in found.items()} == {
        "physics": 4.5,
        "host callback": 1.0,
        "env terms": 2.5,
        "policy": 1.0,
        "learning": 4.0,
    }
    assert found["learning"]["percent"] == pytest.approx(100 * 4 / 13)
    found = parts(seconds, {}, "mjx")
    assert (found["physics"]["seconds"], found["env terms"]["seconds"]) == (5.0, 3.0)
