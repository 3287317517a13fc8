"""`ksim.envs.make`: one name, three faces."""

import sys

import jax
import numpy as np
import pytest

from ksim.envs import Env, ManagerBasedRlEnv, make
from ksim.errors import ConfigError

SMALL = ["physics=mujoco", "physics.threads=1"]


def test_three_faces_of_one_task():
    functional = make("cartpole_balance", overrides=SMALL)
    manager = make("cartpole_balance", num_envs=3, api="manager", overrides=[*SMALL, "seed=5"])
    gym = make("cartpole_balance", num_envs=3, api="gymnasium", overrides=[*SMALL, "seed=5"], group="actor")
    assert isinstance(functional, Env) and isinstance(manager, ManagerBasedRlEnv)
    _, obs = jax.jit(lambda key: functional.reset(key, 3))(jax.random.key(5))
    seen = manager.reset()[0]["actor"]
    np.testing.assert_allclose(seen, obs["actor"], atol=1e-6)
    np.testing.assert_array_equal(gym.reset()[0], seen)
    assert (manager.num_envs, gym.num_envs, manager.cfg.seed) == (3, 3, 5)


def test_overrides_are_those_of_the_command_line():
    env = make("cartpole_balance", num_envs=5, overrides=[*SMALL, "task.episode_length_s=1", "algo.num_envs=512"])
    assert env.max_episode_steps == 50
    assert env.cfg.scene.num_envs == 5  # any number: no learner's minibatches have to fit
    assert make("cartpole_balance", overrides=[*SMALL, "algo.num_envs=512"]).cfg.scene.num_envs == 512


def test_the_engine_is_chosen_as_in_a_training():
    assert type(make("cartpole_balance").physics).__name__ == "BatchPhysics"  # auto, on a CPU
    assert type(make("cartpole_balance", overrides=["physics=mjx"]).physics).__name__ == "MjxPhysics"


def test_a_task_of_the_users_own(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(
        "defaults: [cartpole_balance]\nepisode_length_s: 2.0\nrewards: {centered: null}\n"
    )
    env = make("mine", config_dir=tmp_path, overrides=SMALL)
    assert env.max_episode_steps == 100 and list(env.rewards.terms) == ["upright"]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"task": "cartpole_balanc"}, "task: there is no 'cartpole_balanc' (did you mean 'cartpole_balance'"),
        ({"api": "manger"}, "api: there is no 'manger' (did you mean 'manager'"),
        ({"num_envs": 0}, "task.scene.num_envs: must be above 0"),
        ({"overrides": ["task.decimatin=2"]}, "task.decimatin"),
        ({"device": "cpu"}, "device: is an option of the stateful faces"),
        ({"api": "manager", "group": "actor"}, "group: no such option of api=manager"),
        ({"api": "gymnasium", "rendermode": None}, "did you mean 'render_mode'"),
    ],
)
def test_mistakes(kwargs, words):
    with pytest.raises(ConfigError) as caught:
        make(**({"task": "cartpole_balance"} | kwargs))
    assert words in str(caught.value)


def test_without_gymnasium_its_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "ksim.envs.api.gymnasium", raising=False)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ConfigError, match=r"pip install 'ksim\[gym\]'"):
        make("cartpole_balance", num_envs=2, api="gymnasium", overrides=SMALL)
