"""Evaluations during a training: they find the best checkpoint, and change nothing."""

import shutil

import pytest
from support.runs import CHUNK, assert_same, assert_same_state, fresh

from ksim import eval as ksim_eval
from ksim import evaluation
from ksim.compose import load_frozen
from ksim.experiment import build
from ksim.resume import resumed_config
from ksim.saved import load_policy
from ksim.store import checkpoint, metrics
from ksim.store.run_dir import RunDir
from ksim.train import train

OFTEN = ("eval.interval_steps=128", "eval.interval_episodes=4", "checkpoint.keep=1")


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> RunDir:
    """Six chunks, with an evaluation after each."""
    return fresh(tmp_path_factory.mktemp("judged"), "runs", 6, *OFTEN, "algo.learning_rate=0.01")


def scores(run: RunDir) -> dict[int, float]:
    return {line["step"]: line["eval/return"] for line in metrics.read(run.metrics_path) if "eval/return" in line}


def test_evaluating_often_changes_no_weight(tmp_path, judged):
    never = fresh(tmp_path, "runs", 6, "eval.interval_steps=null", "algo.learning_rate=0.01")
    assert_same_state(judged, never)
    assert len(scores(judged)) == 6 and not scores(never)


def test_the_best_checkpoint_stays_and_is_the_best(judged):
    found = scores(judged)
    best = max(found, key=lambda step: found[step])
    assert len(set(found.values())) > 1  # else there is nothing to choose from
    assert checkpoint.read_best(judged.checkpoints) == checkpoint.Best(best, found[best])
    assert set(checkpoint.steps(judged.checkpoints)) == {best, 6 * CHUNK}
    assert checkpoint.find(judged.checkpoints, "best", pytest.fail).name == str(best)


def test_a_judgement_is_a_plain_evaluation_on_a_stream_of_its_own(judged):
    experiment = build(load_frozen(judged.config_path))
    best = checkpoint.read_best(judged.checkpoints)
    policy, step = load_policy(judged, "best", experiment)
    assert best is not None and step == best.step
    again = evaluation.player(experiment, 4, experiment.cfg.seed, purpose="judge")(policy)
    assert evaluation.summarize(again, experiment.env.step_dt)["return"] == best.score
    other = evaluation.play(experiment, policy, 4, experiment.cfg.seed)
    assert evaluation.summarize(other, experiment.env.step_dt)["return"] != best.score


@pytest.mark.parametrize("lost", ["best.json", "best.json and the newest checkpoint"])
def test_a_stopped_training_judges_on_as_if_it_had_not_stopped(tmp_path, judged, lost):
    run = fresh(tmp_path, "runs", 3, *OFTEN, "algo.learning_rate=0.01", "checkpoint.every_s=1e-6", "checkpoint.keep=9")
    (run.checkpoints / "best.json").unlink()
    if "newest" in lost:
        shutil.rmtree(run.checkpoints / str(3 * CHUNK))
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}", "checkpoint.keep=1"]), run, resume=True)
    assert_same(run, judged)
    assert checkpoint.read_best(run.checkpoints) == checkpoint.read_best(judged.checkpoints)
    assert checkpoint.steps(run.checkpoints) == checkpoint.steps(judged.checkpoints)


def test_the_best_one_can_be_evaluated(judged, capsys):
    ksim_eval.main([f"run={judged.path}", "checkpoint=best", "episodes=2", "video=false"])
    best = checkpoint.read_best(judged.checkpoints)
    assert best is not None and f"checkpoint of step {best.step:,}" in capsys.readouterr().out
