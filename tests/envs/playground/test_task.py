"""A Playground environment as a task of ksim's."""

import jax
import numpy as np
import pytest
from support.jit import quick_jit

pytest.importorskip("mujoco_playground")

from mujoco_playground.config import dm_control_suite_params

from ksim.config.compose import compose, freeze, load_frozen, plain, with_overrides
from ksim.envs.env import make_env
from ksim.envs.playground import library
from ksim.envs.playground.task import PlaygroundCfg, observation_keys, ppo_settings
from ksim.errors import ConfigError
from ksim.rl.ppo import PPO
from ksim.training.checks import checked

CARTPOLE = ("task=playground", "task.env=CartpoleBalance")


class Player:
    """An env with its compiled functions."""

    def __init__(self, **settings):
        self.env = make_env(PlaygroundCfg(env="CartpoleBalance", **settings), "mujoco", 1)
        reset = quick_jit(self.env.reset, static_argnums=1, static_argnames="random_age")
        self.reset = lambda num_envs=3, **options: reset(jax.random.key(0), num_envs, **options)
        step = quick_jit(self.env.step)
        self.step = lambda carry, action: step(carry, np.asarray(action, np.float32))


@pytest.fixture(scope="module")
def player() -> Player:
    return Player(max_steps=4)


def test_a_command_line_makes_a_typed_task(tmp_path):
    cfg = checked(compose([*CARTPOLE, "task.config_overrides.ctrl_dt=0.02", "task.max_steps=7"]))
    assert isinstance(cfg.task, PlaygroundCfg)
    assert cfg.task.max_steps == 7 and library.flat(cfg.task.config_overrides) == {"ctrl_dt": 0.02}
    path = tmp_path / "config.yaml"
    path.write_text(freeze(cfg))
    assert plain(load_frozen(path)) == plain(cfg)
    assert with_overrides(cfg, ["task.max_steps=9"]).task.max_steps == 9


def test_settings_of_playgrounds_authors_are_the_tasks():
    facts = dm_control_suite_params.brax_ppo_config("CartpoleBalance")
    ppo = compose(CARTPOLE).algo
    assert isinstance(ppo, PPO)
    assert ppo.num_envs == facts.num_envs == 2048 and ppo.total_steps == facts.num_timesteps == 60_000_000
    assert ppo.num_env_states_per_minibatch == facts.batch_size * facts.unroll_length == 30_720
    assert (ppo.gamma, ppo.learning_rate, ppo.num_learning_epochs) == (0.995, 1e-3, 16)
    go1 = ppo_settings("Go1JoystickFlatTerrain")
    assert go1["actor_hidden"] == [512, 256, 128] and go1["total_steps"] == 200_000_000
    ours = compose([*CARTPOLE, "algo.num_envs=64", "algo.gamma=0.9"]).algo
    assert (ours.num_envs, ours.gamma, ours.learning_rate) == (64, 0.9, 1e-3)


def test_the_settings_of_every_environment_are_those_of_a_ppo():
    for name in library.names():
        PPO(**ppo_settings(name))


def test_a_critic_sees_what_is_privileged_where_there_is_such_a_thing():
    both, one = {"state": 0, "privileged_state": 0}, {"state": 0}
    assert observation_keys("CartpoleBalance", both) == {"actor": "state", "critic": "privileged_state"}
    assert observation_keys("CartpoleBalance", one) == {"actor": "state", "critic": "state"}
    with pytest.raises(ConfigError, match="Go1JoystickFlatTerrain has no observation 'privileged_state' for the crit"):
        observation_keys("Go1JoystickFlatTerrain", one)  # its authors ask for it


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.env=CartpoleBalanc"], "task.env: MuJoCo Playground has no 'CartpoleBalanc' .*'CartpoleBalance'"),
        (["task.env=3"], "task.env: must be a string, not 3"),
        (["task.env=CheetahRun", "task.max_step=3"], r"task.max_step: no such key \(did you mean 'max_steps'"),
        (["task.env=CheetahRun", "task.max_steps=0"], "task.max_steps: must be above 0, not 0"),
        (
            ["task.env=CheetahRun", "task.config_overrides.ctrl_d=1"],
            r"task.config_overrides.ctrl_d: CheetahRun has no such setting \(did you mean 'ctrl_dt'",
        ),
        (
            ["task.env=CheetahRun", "task.domain_randomization=true"],
            "task.domain_randomization: MuJoCo Playground has none for CheetahRun",
        ),
        (["algo.num_envs=8"], "task.env: has no value"),
    ],
)
def test_mistakes_are_named_before_anything_compiles(overrides, message):
    with pytest.raises(ConfigError, match=message):
        checked(compose(["task=playground", *overrides]))


def test_a_task_of_another_class_is_refused():
    with pytest.raises(ConfigError, match="task: pathlib.Path is not a dataclass derived from .*TaskCfg"):
        compose([*CARTPOLE, "task._target_=pathlib.Path"])


def test_a_step_as_the_learner_sees_it(player):
    carry, obs_0 = player.reset()
    assert {group: x.shape for group, x in obs_0.items()} == {"actor": (3, 5), "critic": (3, 5)}
    total_E = np.zeros(3)
    for count in range(1, 5):
        carry, out = player.step(carry, [[9.0]] * 3)  # clipped to 1
        total_E += out.reward
        assert np.array_equal(out.terminal.episode_step, [count] * 3)
        assert np.array_equal(out.truncated, [count == 4] * 3) and not out.terminated.any()
    assert player.env.reward_scale == 0.1  # what is reported is not scaled
    np.testing.assert_allclose(out.episode["return"], total_E * 10.0, rtol=1e-5)
    assert out.log["episodes"] == 3 and out.log["length"] == 12
    assert 0.0 < out.episode["metric/reward/upright"][0] <= 1.0
    fresh = np.asarray(out.obs["actor"])
    for old in (obs_0["actor"], out.terminal_obs["actor"]):
        assert np.abs(fresh - old).max(axis=1).min() > 1e-4
    assert np.unique(fresh[:, 0]).size == 3
    assert not carry.envs.episode_step.any() and not any(x.any() for x in carry.envs.episode.values())
    assert np.array_equal(carry.envs.memory["state"].info["rng"].shape, (3, 2))


def test_info_is_reset_with_the_state(player):
    carry, _ = player.reset()
    first = carry.envs.memory["state"].info["rng"]
    for _ in range(4):
        carry, _ = player.step(carry, [[0.0]] * 3)
    assert not np.array_equal(carry.envs.memory["state"].info["rng"], first)


def test_an_env_that_diverges_is_reset_and_counted_and_the_others_go_on(player):
    carry, _ = player.reset()
    after, out = player.step(carry, [[0.1], [np.nan], [0.1]])
    assert np.array_equal(out.terminated, [False, True, False]) and out.log["nan_guard"] == 1
    assert out.reward[1] == 0.0 and all(np.isfinite(x).all() for x in jax.tree.leaves((out.obs, out.terminal_obs)))
    same, _ = player.step(carry, [[0.1]] * 3)
    assert np.array_equal(after.envs.physics.qpos[0], same.envs.physics.qpos[0])
    assert after.shared.diverged.count == 1
    assert np.array_equal(after.shared.diverged.given["qpos"][0], carry.envs.physics.qpos[1])


def test_episodes_begin_at_random_ages_for_a_training(player):
    carry, _ = player.reset(64, random_age=True)
    assert set(np.asarray(carry.envs.episode_step)) == {0, 1, 2, 3}


def test_the_registrys_randomizer_gives_each_env_a_model(monkeypatch):
    def randomize(model, rng):
        scale_E = jax.vmap(lambda key: jax.random.uniform(key, minval=0.5, maxval=5.0))(rng)
        axes = jax.tree.map(lambda _: None, model).tree_replace({"body_mass": 0})
        return model.tree_replace({"body_mass": model.body_mass * scale_E[:, None]}), axes

    monkeypatch.setattr(library, "domain_randomizer", lambda name: randomize)
    player = Player(domain_randomization=True)
    carry, _ = player.reset()
    assert carry.envs.model_fields.keys() == {"body_mass"}
    after, _ = player.step(carry, [[1.0]] * 3)
    assert np.array_equal(after.envs.model_fields["body_mass"], carry.envs.model_fields["body_mass"])
    speed_E = after.envs.physics.qvel[:, 0] - carry.envs.physics.qvel[:, 0]
    weight_E = carry.envs.model_fields["body_mass"][:, 1]
    assert np.array_equal(np.argsort(speed_E), np.argsort(-weight_E))  # the same force moves a heavier cart less
