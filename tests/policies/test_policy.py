"""A policy is loaded from its checkpoint alone."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from support.untrained import untrained

import ksim
from ksim.envs.env import Env
from ksim.errors import KsimError
from ksim.policies.load import load_trained
from ksim.store import checkpoint

README = Path(__file__).resolve().parent.parent.parent / "README.md"


@pytest.fixture(scope="module")
def kbot(composed, tmp_path_factory):
    """A run of the K-Bot task, and its experiment."""
    assert composed["kbot_standing"].algo.symmetry == "equivariant"
    return untrained(composed["kbot_standing"], tmp_path_factory.mktemp("kbot") / "runs")


@pytest.fixture(scope="module")
def cartpole(composed, tmp_path_factory):
    return untrained(composed["cartpole_balance"], tmp_path_factory.mktemp("cartpole") / "runs")


@pytest.fixture
def no_env(monkeypatch):
    """Nothing can build an env."""

    def refuse(*args: object) -> None:
        raise AssertionError("an env was built")

    monkeypatch.setattr(Env, "__init__", refuse)
    monkeypatch.setattr("ksim.envs.scene.build_scene", refuse)


@pytest.mark.parametrize("robot", ["kbot", "cartpole"])
def test_it_acts_as_the_policy_of_the_run_does(robot, request):
    run, experiment = request.getfixturevalue(robot)
    trained = load_trained(run, "latest", experiment.env)
    policy = ksim.load_policy(run.path)
    obs = np.random.default_rng(1).normal(0, 3, (50, policy.observation_size)).astype(np.float32)
    expected = trained.policy(obs)[0].mode()
    np.testing.assert_allclose(policy(obs), expected, rtol=1e-5, atol=1e-6)
    assert policy(obs).dtype == np.float32 and np.abs(policy(obs)).max() > 0.1
    np.testing.assert_allclose(policy(obs[0]), policy(obs)[0], rtol=1e-5, atol=1e-6)


def test_every_number_comes_back(kbot):
    run, experiment = kbot
    policy = ksim.load_policy(run.path)
    stored = checkpoint.load_arrays(run.checkpoints / "0", "policy")
    found = jax.tree.leaves(policy.policy)
    assert len(found) == len(stored) > 8
    assert all(any(np.array_equal(x, y) for y in stored.values()) for x in found)
    symmetry = experiment.env.symmetry(("actor", "critic"))
    obs = np.random.default_rng(2).normal(size=56).astype(np.float32)
    mirrored = policy.policy.network(symmetry.obs["actor"](obs))
    np.testing.assert_allclose(mirrored, symmetry.action(policy.policy.network(obs)), rtol=1e-5, atol=1e-4)


def test_manifest_and_policy_file_are_enough(kbot, tmp_path, no_env):
    run, _ = kbot
    for name in ("manifest.json", "policy.npz"):
        shutil.copy(run.checkpoints / "0" / name, tmp_path)
    obs = np.ones(56)
    np.testing.assert_array_equal(ksim.load_policy(tmp_path)(obs), ksim.load_policy(run.path)(obs))
    data = (tmp_path / "policy.npz").read_bytes()
    (tmp_path / "policy.npz").write_bytes(data[:-1] + b"!")
    with pytest.raises(checkpoint.CheckpointError, match=r"policy\.npz is damaged \(its checksum does not match\)"):
        ksim.load_policy(tmp_path)


def test_terms_may_be_given_by_name(kbot):
    policy = ksim.load_policy(kbot[0].path)
    obs = np.arange(2 * 56, dtype=np.float32).reshape(2, 56) / 100
    cuts = np.cumsum([term["size"] for term in policy.observation])[:-1]
    parts = dict(zip([t["name"] for t in policy.observation], np.split(obs, cuts, axis=-1), strict=True))
    assert list(parts) == ["gravity", "ang_vel", "joint_pos", "joint_vel", "last_action"]
    np.testing.assert_array_equal(policy(dict(reversed(parts.items()))), policy(obs))
    del parts["gravity"]
    with pytest.raises(KsimError, match="has the terms gravity, ang_vel, .*; not ang_vel, joint_pos"):
        policy(parts)
    with pytest.raises(KsimError, match=r"'gravity' has 3 elements, not \(2,\)"):
        policy(parts | {"gravity": np.zeros((2, 2))})


@pytest.mark.parametrize("shape", [(55,), (56, 2), ()])
def test_an_observation_of_another_size_is_refused(kbot, shape):
    with pytest.raises(KsimError, match="the policy's observation has 56 elements, not"):
        ksim.load_policy(kbot[0].path)(np.zeros(shape))


def test_a_checkpoint_that_does_not_describe_its_policy_is_refused(kbot, tmp_path):
    run, experiment = kbot
    policy = load_trained(run, "latest", experiment.env).policy
    path = checkpoint.save(tmp_path, 3, {"policy": policy}, {"observations": {"actor": {"gravity": 3}}})
    with pytest.raises(KsimError, match="does not describe its policy: an older ksim wrote it"):
        ksim.load_policy(path)
    with pytest.raises(KsimError, match="nowhere does not exist"):
        ksim.load_policy(tmp_path / "nowhere")


def test_the_readme_shows_it_in_ten_lines(kbot, monkeypatch, capsys, no_env):
    run, _ = kbot
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "load_policy" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(run.path.parents[2])
    names: dict = {}
    exec(code, names)
    expected = ksim.load_policy(run.path)(np.array([0, 0, -1] + [0] * 53))
    np.testing.assert_array_equal(names["action"], expected)
    out = capsys.readouterr().out
    assert "gravity 3 Direction of gravity in the base's frame" in out and "dof_left_knee_04" in out
