"""The contract of `gymnasium.vector.VectorEnv`, written from its documentation, sentence by sentence.

https://gymnasium.farama.org/api/vector/ and https://farama.org/Vector-Autoreset-Mode (same-step mode).
"""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from support.envs import MDP, cartpole_task, kbot_task, same

from ksim.config.schema import ViewerCfg
from ksim.envs import ManagerBasedRlEnv
from ksim.envs.api.gymnasium import GymnasiumVectorEnv
from ksim.errors import ConfigError, KsimError

NUM_ENVS = 4


def make(group: str | None = None, **changes) -> GymnasiumVectorEnv:
    """A cart-pole whose pole falls after some steps, or whose time is out."""
    terms = {
        "joint_pos": {"_target_": f"{MDP}.observations.joint_pos"},
        "joint_vel": {"_target_": f"{MDP}.observations.joint_vel"},
    }
    fall = {"_target_": f"{MDP}.terminations.joint_out_of_range", "joints": "hinge", "limit": 0.3}
    reset = {"_target_": f"{MDP}.events.reset_joints", "mode": "reset", "position_range": [-0.2, 0.2]}
    force = {"_target_": f"{MDP}.actions.joint_effort", "joints": "slider", "scale": 10.0, "clip": [-1.0, 1.0]}
    cfg = cartpole_task(
        actions={"force": force},
        observations={"actor": {"terms": terms}, "parts": {"concatenate": False, "terms": terms}},
        rewards={"upright": {"_target_": f"{MDP}.rewards.pole_upright", "weight": 1.0, "joint": "hinge"}},
        terminations={"fall": fall, "time_out": {"_target_": f"{MDP}.terminations.time_out"}},
        events={"reset": reset},
        episode_length_s=0.6,
        seed=0,
        viewer=ViewerCfg(position=[0.0, -4.0, 1.5], target=[0.0, 0.0, 1.4], width=64, height=48),
        **changes,
    )
    return GymnasiumVectorEnv(ManagerBasedRlEnv(cfg, "cpu", "rgb_array", engine="mujoco", threads=1), group)


@pytest.fixture(scope="module")
def env():
    env = make("actor")
    yield env
    env.close()


@pytest.fixture(scope="module")
def whole():
    """With all observation groups."""
    env = make()
    yield env
    env.close()


def actions(env, steps: int, seed: int = 0) -> list[np.ndarray]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


def test_it_is_a_vector_env_with_single_and_batched_spaces(env, whole):
    for e in (env, whole):
        assert isinstance(e, VectorEnv) and e.unwrapped is e and e.num_envs == NUM_ENVS
        assert e.observation_space == batch_space(e.single_observation_space, NUM_ENVS)
        assert e.action_space == batch_space(e.single_action_space, NUM_ENVS)
    assert env.single_observation_space.shape == (4,) and env.observation_space.shape == (NUM_ENVS, 4)
    parts = whole.single_observation_space["parts"]
    assert {name: space.shape for name, space in parts.items()} == {"joint_pos": (2,), "joint_vel": (2,)}


def test_the_action_space_is_what_the_task_clips_to(env):
    assert env.single_action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


def test_a_clip_bounds_the_elements_of_its_own_term():
    position = {"_target_": f"{MDP}.actions.joint_position"}
    free = {**position, "joints": ".*left_(knee|ankle).*"}
    bounded = {**position, "joints": ".*right_knee.*"}
    cfg = kbot_task(actions={"a": free, "b": {**bounded, "clip": [-1.0, 2.0]}})
    space = GymnasiumVectorEnv(ManagerBasedRlEnv(cfg, "cpu", engine="mujoco", threads=1)).single_action_space
    assert space.low.tolist() == [-np.inf, -np.inf, -1.0] and space.high.tolist() == [np.inf, np.inf, 2.0]


def test_observations_lie_in_their_space_with_its_type(env, whole):
    for e in (env, whole):
        obs, info = e.reset(seed=1)
        assert obs in e.observation_space and isinstance(info, dict)
        for action in actions(e, 40):
            obs, *_ = e.step(action)
            assert obs in e.observation_space


def test_a_step_gives_batches_of_five(env):
    env.reset(seed=1)
    for action in actions(env, 5):
        obs, rewards, terminations, truncations, infos = env.step(action)
        assert isinstance(obs, np.ndarray) and obs.dtype == np.float32
        for value, kind in ((rewards, np.floating), (terminations, np.bool_), (truncations, np.bool_)):
            assert isinstance(value, np.ndarray) and value.shape == (NUM_ENVS,) and np.issubdtype(value.dtype, kind)
        assert isinstance(infos, dict)
        obs[:] = rewards[:] = 0  # the caller's own to write to


def test_a_seed_repeats_everything_and_no_seed_does_not(env):
    def play(seed):
        return [env.reset(seed=seed)[0], *(env.step(action)[:4] for action in actions(env, 40))]

    first = play(7)
    assert same(first, play(7))
    assert env.np_random_seed == 7
    assert not same(first[0], play(None)[0])
    assert not same(first[0], play(8)[0])
    assert len(np.unique(first[0], axis=0)) == NUM_ENVS  # each env draws for itself


def test_the_autoreset_mode_is_declared(env):
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert "rgb_array" in env.metadata["render_modes"] and env.metadata["render_fps"] == 50
    assert env.render_mode == "rgb_array"


def test_a_done_env_starts_anew_in_the_same_step_and_its_last_observation_is_in_the_infos(whole):
    """`obs` is the first of the new episode; `final_obs` is where the old one's dynamics had led."""
    env = whole
    obs, _ = env.reset(seed=3)
    age = np.zeros(NUM_ENVS, int)
    total = np.zeros(NUM_ENVS)
    kinds = set()
    for action in actions(env, 80):
        last = obs["actor"]
        obs, rewards, terminations, truncations, infos = env.step(action)
        age, total = age + 1, total + rewards
        done = terminations | truncations
        if not done.any():
            assert infos == {}
            continue
        assert set(infos) == {"final_obs", "_final_obs", "final_info", "_final_info"}
        np.testing.assert_array_equal(infos["_final_obs"], done)
        np.testing.assert_array_equal(infos["_final_info"], done)
        assert infos["final_obs"].dtype == object and infos["final_obs"].shape == (NUM_ENVS,)
        episode = infos["final_info"]["episode"]
        np.testing.assert_array_equal(infos["final_info"]["_episode"], done)
        for i in range(NUM_ENVS):
            if not done[i]:
                assert infos["final_obs"][i] is None
                assert not episode["_length"][i] and episode["length"][i] == 0
                continue
            final = infos["final_obs"][i]
            assert final in env.single_observation_space
            moved = last[i, :2] + 0.02 * final["actor"][2:]  # positions follow from velocities
            np.testing.assert_allclose(final["actor"][:2], moved, atol=0.03)
            np.testing.assert_array_equal(np.concatenate(list(final["parts"].values())), final["actor"])
            assert (abs(final["actor"][1]) > 0.3) == terminations[i]
            assert (np.abs(obs["actor"][i, :2]) <= 0.2).all() and (obs["actor"][i, 2:] == 0).all()  # fresh
            assert truncations[i] == (age[i] == 30)
            assert episode["_return"][i] and episode["length"][i] == age[i]
            assert episode["return"][i] == pytest.approx(total[i], rel=1e-4)
            kinds.add((bool(terminations[i]), bool(truncations[i])))
        age[done], total[done] = 0, 0.0
    assert {(True, False), (False, True)} <= kinds


def test_a_mask_resets_some_envs_alone(env):
    env.reset(seed=3)
    obs = [env.step(action)[0] for action in actions(env, 5)][-1]
    mask = np.array([False, True, False, True])
    new, info = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(new[~mask], obs[~mask])
    assert (new[mask, 2:] == 0).all() and (obs[mask, 2:] != 0).any() and info == {}
    unchanged, _ = env.reset(options={"reset_mask": np.zeros(4, bool)})
    np.testing.assert_array_equal(unchanged, new)
    for wrong in ([True] * 4, np.ones(3, bool), np.ones(4)):
        with pytest.raises(KsimError, match="reset_mask"):
            env.reset(options={"reset_mask": wrong})
    with pytest.raises(KsimError, match="one whole number"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(KsimError, match="no option 'mask'"):
        env.reset(options={"mask": mask})


def test_wrappers_of_gymnasium_fit():
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(make("actor"))
    env.reset(seed=3)
    lengths = []
    for action in actions(env, 60):
        *_, infos = env.step(action)
        if "final_info" in infos:
            own = infos["final_info"]["episode"]["length"][infos["_final_obs"]]
            theirs = infos["episode"]["l"][infos["_episode"]]
            np.testing.assert_array_equal(own, theirs)
            lengths += list(theirs)
    assert len(lengths) >= NUM_ENVS
    env.close()


def test_pictures_come_in_a_tuple(env, renderer):
    env.reset(seed=0)
    pictures = env.render()
    assert isinstance(pictures, tuple) and pictures[0].shape == (48, 64, 3) and pictures[0].std() > 1


def test_it_closes_once():
    env = make("actor")
    env.reset()
    env.close()
    env.close()
    assert env.closed
    with pytest.raises(KsimError, match="closed"):
        env.reset()


def test_an_unknown_group_is_named():
    with pytest.raises(ConfigError, match="group: there is no 'actr'.*did you mean 'actor'"):
        make("actr")
