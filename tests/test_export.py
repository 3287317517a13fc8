"""`python -m ksim.export`: the ONNX file acts as the policy does, and says all that a control loop needs."""

import base64
import copy
import gzip
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support.untrained import untrained

import ksim
from ksim import export
from ksim.config.compose import compose
from ksim.config.fields import limits_of
from ksim.errors import KsimError
from ksim.policies import onnx as onnx_graph
from ksim.policies.describe import describe
from ksim.policies.saved import SavedPolicy
from ksim.rl import PPO
from ksim.rl.actor_critic import GaussianPolicy
from ksim.rl.networks import MLP
from ksim.rl.normalizer import Normalizer
from ksim.robots import loader
from ksim.store import files
from ksim.store.run_dir import RunDir
from ksim.training.experiment import build
from ksim.viz.page import knows, make, npm

DEPLOY = Path(__file__).resolve().parent / "deploy"
STANDING = DEPLOY / "kbot_standing.onnx"
WALKING = DEPLOY / "kbot_walking.onnx"
MJCF = {name: Path(loader.__file__).parent / name / f"{name}.xml" for name in ("kbot", "cartpole")}


@pytest.fixture(scope="module")
def runs(composed, tmp_path_factory) -> dict[str, RunDir]:
    """A run of each robot that has neither sensor noise nor random resets; K-Bot sees three frames of gravity."""
    found = {}
    for cfg in copy.deepcopy(composed).values():
        if gravity := cfg.task.observations["actor"]["terms"].get("gravity"):
            gravity |= {"history": 3, "scale": 2.0}
        cfg.task.observations["actor"]["enable_corruption"] = False
        cfg.task.events = {"reset": {"_target_": "ksim.mdp.events.reset_scene_to_default", "mode": "reset"}}
        found[cfg.task.scene.robot], _ = untrained(cfg, tmp_path_factory.mktemp("export") / "runs")
    return found


@pytest.fixture(scope="module")
def exported(runs) -> dict[str, export.Exported]:
    return {
        name: export.export(run, ksim.load_policy(run.path), run.export / "policy.onnx") for name, run in runs.items()
    }


def metadata(path: Path) -> dict:
    return {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}


def play(
    policy: Path, robot: str, tmp_path: Path, seconds: float, push: float = 0.0, velocity: tuple[float, ...] = ()
) -> dict[str, np.ndarray]:
    """What the plain control loop did, in a process where neither ksim nor JAX can be imported."""
    script = DEPLOY / "play_onnx.py"
    argv = [str(script), str(policy), str(MJCF[robot]), str(seconds), str(push), str(tmp_path / "trace.npz")]
    argv += [str(x) for x in velocity]
    blocked = "import runpy, sys; sys.modules |= dict.fromkeys(['ksim', 'jax']); sys.argv = sys.argv[1:]; "
    code = blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "trace.npz") as trace:
        return dict(trace)


# The file. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("robot", ["kbot", "cartpole"])
def test_it_acts_as_the_policy_does(robot, runs, exported):
    policy = ksim.load_policy(runs[robot].path)
    found = exported[robot]
    assert found.num_observations == 1000 and 0 <= found.max_error <= 1e-5
    session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    obs = np.random.default_rng(0).normal(0, 2, (300, policy.observation_size)).astype(np.float32)
    (action,) = session.run(["action"], {"obs": obs})
    assert np.abs(action).max() > 0.1
    np.testing.assert_allclose(action, policy(obs), atol=1e-5)
    obs *= 1e4  # beyond where normalized observations are clipped
    np.testing.assert_allclose(session.run(["action"], {"obs": obs})[0], policy(obs), atol=1e-5)


@pytest.mark.parametrize("activation", limits_of(PPO, "activation").choices)
def test_each_activation_is_the_same(activation):
    actor = MLP([3, 16, 16, 2], activation, last_scale=1.0, key=jax.random.key(0))
    normalizer = Normalizer(np.array([1.0, 0.0, -1.0]), np.array([4.0, 1.0, 0.0]), np.array(1.0))
    description = {"observations": {"actor": [{"name": "x", "size": 3}]}, "actions": [{"joints": ["a", "b"]}]}
    policy = SavedPolicy(Path(), 0, description, GaussianPolicy(normalizer, actor, np.zeros(2), None))
    obs = np.random.default_rng(0).normal(0, 3, (100, 3)).astype(np.float32)
    action, carry = onnx_graph.Session(onnx_graph.make(policy, {}))(obs)
    np.testing.assert_allclose(action, policy(obs), atol=1e-5)
    assert carry == []


def test_it_says_what_the_checkpoint_says(runs, exported):
    policy = ksim.load_policy(runs["kbot"].path)
    found = metadata(exported["kbot"].path)
    assert found.pop("observations") == policy.observation
    assert (found.pop("format"), found.pop("ksim"), found.pop("step")) == (1, ksim.__version__, 0)
    assert found.pop("carry") == []
    assert found.pop("run") == f"kbot_standing/{runs['kbot'].path.name}"
    assert found == {
        key: value for key, value in policy.description.items() if key not in ("observations", "policy", "rewards")
    }


def test_the_same_checkpoint_gives_the_same_file(runs, exported, tmp_path):
    again = export.export(runs["cartpole"], ksim.load_policy(runs["cartpole"].path), tmp_path / "a" / "b.onnx")
    assert again.path.read_bytes() == exported["cartpole"].path.read_bytes()
    assert [path.name for path in again.path.parent.iterdir()] == ["b.onnx"]


def test_the_command(runs, tmp_path, capsys):
    run = runs["cartpole"]
    export.main([f"run={run.path}", f"out={tmp_path}/mine.onnx", "checkpoint=#1"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"run:     {run.path}, checkpoint of step 0"
    assert out[1] == "policy:  obs of 4 elements to action of 1, at 50 Hz"
    assert out[2].startswith("checked: on 1,000 recorded observations, largest error against JAX ")
    assert out[3:] == [f"{tmp_path}/mine.onnx"]


def test_a_page_besides(runs, tmp_path, capsys):
    """What opens it is in tests/viz/page; here the command, with npm's packages if they can be had."""
    try:
        make.fetch()
    except npm.NpmError as error:
        pytest.skip(str(error))
    export.main([f"run={runs['cartpole'].path}", f"out={tmp_path}/my.onnx", f"page={tmp_path}/a/my.html"])
    page = (tmp_path / "a" / "my.html").read_text()
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{tmp_path}/my.onnx",
        f"{tmp_path}/a/my.html ({len(page.encode()) / 1e6:.1f} MB)",
    ]
    (packed,) = re.findall('data-file="policy.onnx">(.*?)<', page)
    assert gzip.decompress(base64.b64decode(packed)) == (tmp_path / "my.onnx").read_bytes()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page.split("<script")[0])
    for script in Path(make.__file__).parent.glob("js/*.js"):
        assert script.read_text() in page


def test_a_page_that_cannot_be_is_refused_before_anything_is_written(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(knows, "OBSERVATIONS", frozenset({"ksim.mdp.observations.joint_pos"}))
    with pytest.raises(KsimError, match=r"^page: a page does not know the observation 'joint_vel' \(ksim\.mdp\.obs"):
        export.main([f"run={runs['cartpole'].path}", f"out={tmp_path}/my.onnx", f"page={tmp_path}/my.html"])
    assert not any(tmp_path.glob("my.*"))


def test_the_recorded_observations_are_those_of_episodes(runs):
    cfg = compose(["task=cartpole_balance", "algo.actor_hidden=[16,16]", "algo.critic_hidden=[16,16]"])
    obs = export.record(build(cfg), ksim.load_policy(runs["cartpole"].path), 4, 15)
    assert len(np.unique(obs[0], axis=0)) == 4  # fresh episodes that differ
    moved = obs[:-1, :, :2] + 0.02 * obs[1:, :, 2:]  # position + dt * velocity
    np.testing.assert_allclose(obs[1:, :, :2], moved, atol=5e-3)


# What goes wrong. -----------------------------------------------------------------------------------------------------


def test_a_file_that_does_not_agree_is_not_written(runs, tmp_path, monkeypatch):
    call = onnx_graph.Session.__call__

    def disturbed(change):
        def run(session, obs, carry):
            action, carry = call(session, obs, carry)
            return change(action), carry

        monkeypatch.setattr(onnx_graph.Session, "__call__", run)

    disturbed(lambda action: action + 1e-4)
    (tmp_path / "old.onnx").write_bytes(b"old")
    with pytest.raises(KsimError, match=r"the ONNX graph differs from JAX by 1\.0e-04, more than 1e-05: nothing"):
        export.export(runs["cartpole"], ksim.load_policy(runs["cartpole"].path), tmp_path / "old.onnx")
    assert (tmp_path / "old.onnx").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    disturbed(lambda action: action * np.nan)
    with pytest.raises(KsimError, match="differs from JAX by nan"):
        export.export(runs["cartpole"], ksim.load_policy(runs["cartpole"].path), tmp_path / "old.onnx")


def test_without_the_extra_it_names_it(runs, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(KsimError, match=r"^an export needs onnxruntime: pip install 'ksim\[onnx\]'$"):
        export.main([f"run={runs['cartpole'].path}"])


def test_a_file_that_cannot_be_written_is_named(runs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KsimError, match="file/policy.onnx cannot be written: "):
        export.main([f"run={runs['cartpole'].path}", f"out={tmp_path}/file/policy.onnx"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "run: is missing"),
        (["run=nowhere"], "nowhere does not exist"),
        (["run=latest", "chekpoint=3"], r"chekpoint: no such option \(did you mean 'checkpoint'\?\)"),
        (["run={run}", "checkpoint=7"], "there is no checkpoint '7' in .*; there are: best, latest, 0"),
    ],
)
def test_each_mistake_is_one_message(runs, argv, message):
    argv = [text.format(run=runs["cartpole"].path) for text in argv]
    with pytest.raises(KsimError, match=message) as error:
        export.main(argv)
    assert "\n" not in str(error.value)


def test_a_task_that_changed_since_the_training_is_told(runs, tmp_path, monkeypatch, caplog):
    run, policy = runs["cartpole"], ksim.load_policy(runs["cartpole"].path)
    experiment = build(compose(["task=cartpole_balance"]))
    changed = describe(experiment.cfg, experiment.env, policy.policy) | {"step_dt": 0.01}
    monkeypatch.setattr(export, "describe", lambda *_: changed)
    export.export(run, policy, tmp_path / "policy.onnx")
    assert "step_dt" in caplog.text and "changed since the training" in caplog.text
    assert metadata(tmp_path / "policy.onnx")["step_dt"] == 0.02
    changed["observations"]["actor"][0]["size"] = 3
    with pytest.raises(KsimError, match="the actor now sees 5 elements, 4 then"):
        export.export(run, policy, tmp_path / "policy.onnx")


# The control loop in plain MuJoCo. ------------------------------------------------------------------------------------


@pytest.mark.parametrize("robot", ["kbot", "cartpole"])
def test_a_loop_made_of_the_file_alone_is_the_env(robot, runs, exported, tmp_path):
    policy = ksim.load_policy(runs[robot].path)
    experiment = build(ksim.config.compose.load_frozen(runs[robot].config_path))
    expected = export.record(experiment, policy, 1, 15)[:, 0]
    trace = play(exported[robot].path, robot, tmp_path, 15 * 0.02)
    assert np.ptp(expected, axis=0).max() > 0.1  # something happens
    np.testing.assert_allclose(trace["obs"], expected, atol=1e-4)
    np.testing.assert_allclose(trace["action"], policy(expected), atol=1e-4)


def stands(trace: dict[str, np.ndarray]) -> bool:
    """Whether the robot kept on its feet, as its task defines it: leaning less than 0.5 rad, its base above 0.5 m."""
    upright, height = -trace["obs"][:, 2], trace["qpos"][:, 2]  # gravity comes first in what the policy sees
    return bool(upright.min() > np.cos(0.5) and height.min() > 0.5)


@pytest.mark.parametrize("push", [0.0, 0.3])
def test_it_keeps_the_kbot_standing(push, tmp_path):
    trace = play(STANDING, "kbot", tmp_path, 20.0, push)
    assert len(trace["action"]) == 1000
    assert stands(trace), "the policy falls; if K-Bot's model has changed: tests/deploy/README.md"
    assert np.linalg.norm(trace["qpos"][-1, :2]) < 0.5


@pytest.mark.parametrize(
    ("velocity", "x_range", "turn_range"),
    [
        ((0.6, 0.0, 0.0), (4.0, 6.0), (-0.6, 0.6)),
        ((0.0, 0.0, 0.8), (-0.4, 0.4), (6.0, 10.0)),
        ((), (-0.3, 0.3), (-0.3, 0.3)),
    ],
)
def test_it_walks_the_kbot_as_it_is_asked_to(velocity, x_range, turn_range, tmp_path):
    trace = play(WALKING, "kbot", tmp_path, 10.0, velocity=velocity)
    assert stands(trace), "the policy falls; if K-Bot's model has changed: tests/deploy/README.md"
    yaw = np.unwrap(2 * np.arctan2(trace["qpos"][:, 6], trace["qpos"][:, 3]))  # it hardly leans
    assert x_range[0] < trace["qpos"][-1, 0] < x_range[1] and turn_range[0] < yaw[-1] < turn_range[1]


def test_without_the_policy_the_kbot_falls(tmp_path):
    model = onnx.load(STANDING)
    last = len([x for x in model.graph.initializer if x.name.startswith("weight_")]) - 1
    for constant in model.graph.initializer:
        if constant.name in (f"weight_{last}", f"bias_{last}"):
            zero = np.zeros_like(numpy_helper.to_array(constant))
            constant.CopyFrom(numpy_helper.from_array(zero, constant.name))
    onnx.save(model, tmp_path / "zero.onnx")
    assert not stands(play(tmp_path / "zero.onnx", "kbot", tmp_path, 20.0))


def test_the_standing_policy_is_of_todays_task():
    then = metadata(STANDING)
    experiment = build(compose(["task=kbot_standing", "physics=mujoco"]))
    state = eqx.filter_eval_shape(experiment.algorithm.init, experiment.env, jax.random.key(0))
    policy = experiment.algorithm.policy(state)
    now = files.jsonable(describe(experiment.cfg, experiment.env, policy))
    now["observations"] = now["observations"]["actor"]
    for term in (*then["observations"], *now["observations"]):
        for key in ("noise", "bias", "delay", "description"):  # neither is part of what the policy is given
            term.pop(key, None)
    for old, new in zip(then["observations"], now["observations"], strict=False):
        # A parameter that a term has been given since has a default that leaves it as it was.
        new["parameters"] = {key: value for key, value in new["parameters"].items() if key in old["parameters"]}
    keys = ("robot", "step_dt", "decimation", "base", "joints", "actions", "torque_laws", "observations", "commands")
    changed = [key for key in keys if then[key] != now[key]]
    assert not changed, f"{STANDING.name} is a policy of another task ({changed}); renew it as deploy/README.md tells"
