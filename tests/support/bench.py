"""A training small enough to be measured in a test."""

import numpy as np
import pytest

from ksim.training import throughput

SMALL = """
task=cartpole_balance physics=mujoco algo.num_envs=16 algo.num_env_states_per_minibatch=32 algo.num_minibatches=2
algo.num_learning_epochs=2 algo.actor_hidden=[16] algo.critic_hidden=[16] log.interval_iterations=2 physics.threads=1
""".split()


def check(found: dict, engine: str) -> None:
    """What was measured has its structure, and its numbers agree with each other."""
    assert found["task"] == "cartpole_balance" and found["engine"]["engine"] == engine
    assert (found["num_envs"], found["rollout_length"], found["decimation"]) == (16, 4, 2)
    assert list(found["programs"]) == ["ceiling", "physics", "env", "rollout", "train"]
    for name, program in found["programs"].items():
        assert len(program["all"]) == found["repeats"] and min(program["all"]) > 0
        # The median of the times, which for an even count is not that of the rates.
        median_s = np.median(1.0 / np.array(program["all"]))
        assert program["env_steps_per_s"] == pytest.approx(1.0 / median_s)
        assert program["physics_steps_per_s"] == pytest.approx(2 * program["env_steps_per_s"])
        ceiling = found["programs"]["ceiling"]["env_steps_per_s"]
        assert program["percent_of_ceiling"] == pytest.approx(100 * program["env_steps_per_s"] / ceiling)
        assert (program["compile_s"] is None) == (name == "ceiling")
    parts = found["parts"]
    callback = {"host callback"} if engine == "mujoco" else set()
    assert set(parts) == {"physics", "env terms", "policy", "learning"} | callback <= set(throughput.PARTS)
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(found["iteration_s"])
    assert sum(part["percent"] for part in parts.values()) == pytest.approx(100)
    assert parts["physics"]["seconds"] > 0
