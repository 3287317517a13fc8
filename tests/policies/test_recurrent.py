"""A policy with a carry fits everywhere, with no change to ksim: rollouts, evaluations, the saved file, ONNX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fake_env import FRESH, FakeEnv
from support.recurrent import Elman

import ksim
from ksim.errors import KsimError
from ksim.evaluation.episodes import evaluate
from ksim.policies import onnx
from ksim.rl import rollout
from ksim.store import checkpoint

LENGTHS = (2, 3, 100)
START = 0.25  # of each element of the carry
POLICY = Elman.random(1, 4, 2)


def actions(obs_T: np.ndarray, starts_T: np.ndarray) -> np.ndarray:
    """What the policy does in one env, by NumPy; its memory begins anew where `starts_T`."""
    w, u, v = (np.asarray(x, np.float64) for x in (POLICY.w, POLICY.u, POLICY.v))
    found, h = [], np.full(4, START)
    for obs, starts in zip(obs_T, starts_T, strict=True):
        h = np.tanh(w @ [obs] + u @ (np.full(4, START) if starts else h))
        found.append(v @ h)
    return np.array(found)


def shown(length: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """What a fake env shows before each step, and which steps begin an episode."""
    t = np.arange(num_steps)
    first = np.where(t < length, 0.0, FRESH)
    return first + t % length, t % length == 0


def test_a_rollout_forgets_where_an_episode_ends():
    env = FakeEnv(LENGTHS)
    state, obs = env.reset(jax.random.key(0), 3)
    carry = POLICY.init_carry(3)
    play = jax.jit(partial(rollout, env, num_steps=6, deterministic=True))
    state, obs, carry, trajectory, _ = play(POLICY, state, obs, carry, jax.random.key(1))
    for e, length in enumerate(LENGTHS):
        np.testing.assert_allclose(trajectory.action[:, e], actions(*shown(length, 6)), atol=1e-4)
    # It goes on where it stopped: in the env that has not ended, with what it remembers.
    more = play(POLICY, state, obs, carry, jax.random.key(1))[3]
    np.testing.assert_allclose(more.action[:, 2], actions(*shown(100, 12))[6:], atol=1e-4)


def test_an_evaluation_remembers_within_an_episode():
    result = jax.jit(partial(evaluate, FakeEnv(LENGTHS), num_envs=3, num_steps=6))(POLICY, jax.random.key(0))
    for e, length in enumerate((2, 3, 6)):
        obs_T, starts_T = shown(100, length)
        expected = np.sum(obs_T + 1.0 + actions(obs_T, starts_T)[:, 0])
        assert float(result.values["return"][e]) == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def saved(tmp_path, monkeypatch) -> ksim.policies.saved.SavedPolicy:
    """The policy from a checkpoint that says where its class is."""
    monkeypatch.setenv("KSIM_TRUST", "support")
    about = {
        "observations": {"actor": [{"name": "x", "size": 1}]},
        "actions": [{"joints": ["left", "right"]}],
        "step_dt": 0.02,
        "policy": {"_target_": "support.recurrent.Elman", **POLICY.spec()},
    }
    return ksim.load_policy(checkpoint.save(tmp_path, 5, {"policy": POLICY}, about))


def test_a_saved_policy_is_stepped_with_its_carry(saved):
    assert saved.is_recurrent and saved.step == 5
    with pytest.raises(KsimError, match=r"recurrent: action, carry = policy\.act\(obs, carry\)"):
        saved(np.zeros(1))
    obs_T = np.array([0.3, -1.0, 2.0, 0.5])
    found, carry = [], saved.init_carry()
    for obs in obs_T:
        action, carry = saved.act({"x": np.array([[obs]])}, carry)
        found.append(action[0])
    np.testing.assert_allclose(found, actions(obs_T, np.arange(4) == 0), atol=1e-5)


def test_its_onnx_graph_takes_and_returns_what_it_remembers(saved):
    session = onnx.Session(onnx.make(saved, {}))
    obs_TE = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    carry = [np.asarray(saved.init_carry(3))]
    found = []
    for obs_E in obs_TE:
        action_Ea, carry = session(obs_E[:, None], carry)
        found.append(action_Ea)
    expected = np.stack([actions(obs_TE[:, e], np.arange(10) == 0) for e in range(3)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert jnp.shape(carry[0]) == (3, 4)


def test_a_policy_of_somebody_elses_class_is_not_imported_without_a_word(saved, monkeypatch):
    monkeypatch.delenv("KSIM_TRUST")
    with pytest.raises(
        KsimError, match=r"policy\._target_: support\.recurrent\.Elman is not one of ksim's .* trust=support"
    ):
        ksim.load_policy(saved.path)
