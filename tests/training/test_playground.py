"""An environment that somebody else wrote goes through everything: training, resume, evaluation, report, export."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.runs import CHUNK, assert_same

pytest.importorskip("mujoco_playground")

import ksim
from ksim import bench, export
from ksim import eval as evaluation
from ksim.config.compose import compose
from ksim.report import runs as reported
from ksim.store import metrics, run_dir
from ksim.store.run_dir import RunDir
from ksim.training.checks import checked
from ksim.training.loop import train
from ksim.training.resume import resumed_config

pytestmark = pytest.mark.peers
SMALL = """
task=playground task.env=CartpoleBalance task.max_steps=20 physics=mujoco physics.threads=1 seed=3 algo.num_envs=16
algo.num_env_states_per_minibatch=32 algo.num_minibatches=2 algo.num_learning_epochs=2 algo.actor_hidden=[16]
algo.critic_hidden=[16] log.interval_iterations=2 eval.episodes=0
""".split()


def fresh(tmp_path: Path, num_chunks: int, *overrides: str) -> RunDir:
    cfg = checked(compose([*SMALL, f"runs_dir={tmp_path}", f"algo.total_steps={num_chunks * CHUNK}", *overrides]))
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    train(cfg, run)
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunDir:
    return fresh(tmp_path_factory.mktemp("undisturbed"), 4, "eval.episodes=4", "eval.interval_steps=256")


def test_a_run_has_what_runs_have(undisturbed):
    lines = metrics.read(undisturbed.metrics_path)
    assert len(lines) == 4 and lines[-1]["step"] == 4 * CHUNK
    assert 0.0 < lines[-1]["return"] <= 20.0 and 0.0 < lines[-1]["metric/reward/upright"] <= 1.0
    summary = json.loads((undisturbed.eval / "final" / "metrics.json").read_text())["summary"]
    assert summary["episodes"] == 4 and summary["termination/time_out"] == 1.0
    assert (undisturbed.eval / "final" / "video.mp4").stat().st_size > 1000
    assert (undisturbed.eval / "final" / "actions.png").exists()
    assert reported.read(undisturbed.path).evaluation["return"] == summary["return"]


def test_training_2n_equals_n_then_n(tmp_path, undisturbed):
    run = fresh(tmp_path, 2, "eval.interval_steps=256")
    train(resumed_config(run, [f"algo.total_steps={4 * CHUNK}"]), run, resume=True)
    assert_same(run, undisturbed)


def test_a_saved_run_is_evaluated_on_a_changed_task(undisturbed, capsys):
    evaluation.main([f"run={undisturbed.path}", "episodes=3", "task.max_steps=5", "video=false"])
    assert "episode length" in capsys.readouterr().out
    (found,) = (path for path in undisturbed.eval.iterdir() if path.name != "final")
    summary = json.loads((found / "metrics.json").read_text())["summary"]
    assert summary["episodes"] == 3 and summary["episode_length_s"] == pytest.approx(0.05)


def test_the_exported_policy_acts_as_the_policy_does(undisturbed):
    policy = ksim.load_policy(undisturbed.path)
    assert policy.observation_size == 5 and policy.joints == ["slide"]
    exported = export.export(undisturbed, policy, undisturbed.export / "policy.onnx")
    assert exported.max_error < 1e-5
    assert np.isfinite(policy(np.zeros(5))).all()


def test_where_its_time_goes(capsys):
    bench.main([*SMALL, "repeats=1", "warmup=1"])
    shown = capsys.readouterr().out
    assert "Env.step" in shown and "the training" in shown and "ceiling" not in shown.split("median of 1")[1]
