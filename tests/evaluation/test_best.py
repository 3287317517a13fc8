"""Evaluations during a training: they find the best checkpoint, and change nothing."""

import shutil
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import CHUNK, SMALL, assert_same, assert_same_state, fresh
from support.untrained import fresh_policy

from ksim import eval as ksim_eval
from ksim.config.compose import compose, load_frozen
from ksim.config.schema import EvalCfg
from ksim.envs import Env
from ksim.evaluation import evaluate as evaluation
from ksim.evaluation.best import Judge
from ksim.policies.load import load_trained
from ksim.store import checkpoint, metrics
from ksim.store.checkpoint import Best
from ksim.store.run_dir import RunDir
from ksim.training.experiment import build
from ksim.training.loop import train
from ksim.training.resume import resumed_config

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
    best_so_far = checkpoint.read_best(judged.checkpoints)
    found = load_trained(judged, "best", experiment.env)
    assert best_so_far is not None and found.step == best_so_far.step
    again = evaluation.player(experiment.env, 4, experiment.cfg.seed, purpose="judge")(found.policy, None)
    assert evaluation.summarize(again, experiment.env.step_dt)["return"] == best_so_far.score
    other = evaluation.player(experiment.env, 4, experiment.cfg.seed)(found.policy, None)
    assert evaluation.summarize(other, experiment.env.step_dt)["return"] != best_so_far.score


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


@pytest.fixture
def judge_of(tmp_path, monkeypatch):
    """A judge that has seen nothing, of a run that kept the checkpoints of these steps."""
    monkeypatch.setattr(evaluation, "player", lambda *args, **kwargs: None)

    def make(*steps: int) -> Judge:
        for step in steps:
            checkpoint.save(tmp_path / "checkpoints", step, {}, {})
        cfg = cast(EvalCfg, SimpleNamespace(interval_steps=10, interval_episodes=1))
        return Judge(cast(Env, SimpleNamespace(step_dt=1.0)), 1, cfg, 0, RunDir(tmp_path))

    return make


def line(step: int, score: float | None, **levels: float) -> dict:
    return {"step": step, "eval/return": score} | {f"eval/curriculum/{name}": x for name, x in levels.items()}


@pytest.mark.parametrize(
    ("lines", "best"),
    [
        ([line(10, 1.0), line(20, 3.0), line(30, 2.0)], Best(20, 3.0)),
        ([line(10, 1.0), line(15, 9.0), line(30, 2.0)], Best(30, 2.0)),  # the checkpoint of 15 was not kept
        ([line(10, 1.0), line(20, 1.0)], Best(10, 1.0)),  # as in the training: the first of equals
        ([line(10, 1.0), line(20, None), {"step": 30, "return": 5.0}], Best(10, 1.0)),  # NaN; not judged
        ([line(10, 9.0, hard=1.0), line(20, 2.0, hard=2.0), line(30, 3.0, hard=2.0)], Best(30, 3.0)),  # another task
        ([line(10, 9.0, hard=1.0), line(20, 2.0, hard=2.0), line(30, 1.0, hard=2.0)], Best(20, 2.0)),
        ([], None),
    ],
)
def test_which_evaluations_count_after_a_resume(judge_of, tmp_path, lines, best):
    judge = judge_of(10, 20, 30)
    checkpoint.write_best(tmp_path / "checkpoints", Best(99, 99.0))  # of a future that is redone
    judge.recall(lines)
    assert judge.best == best == checkpoint.read_best(tmp_path / "checkpoints")
    levels = {key: x for key, x in lines[-1].items() if "curriculum" in key} if lines else {}
    assert judge.is_best({"eval/return": 3.5} | levels) and not judge.is_best({"eval/return": float("nan")} | levels)
    if best is not None:
        assert not judge.is_best({"eval/return": best.score} | levels)


HARDER = (
    "+task.curriculum.weight={_target_: ksim.mdp.curriculum.linear, sets: rewards.upright.weight, start: 2.0,"
    " end: 1.0, num_steps: 32}",  # over after four of the six chunks of 8 steps
)


def test_an_evaluation_is_at_the_level_that_the_curricula_have_come_to(tmp_path, caplog):
    """And stays there. A best of an easier level is no best: returns fall from 2 for a good second to 1."""
    run = fresh(tmp_path, "runs", 6, *OFTEN, *HARDER, "algo.learning_rate=0.01")
    lines = [line for line in metrics.read(run.metrics_path) if "eval/return" in line]
    assert [line["eval/curriculum/weight"] for line in lines] == [1.75, 1.5, 1.25, 1.0, 1.0, 1.0]
    for line in lines:
        seconds = line["eval/episode_length_s"]
        assert line["eval/reward/upright"] == pytest.approx(line["eval/curriculum/weight"], rel=0.1), seconds
    last = {line["step"]: line["eval/return"] for line in lines[3:]}
    best = checkpoint.read_best(run.checkpoints)
    assert best == checkpoint.Best(max(last, key=lambda step: last[step]), max(last.values()))
    assert max(scores(run).values()) > best.score
    experiment = build(load_frozen(run.config_path))
    found = load_trained(run, "best", experiment.env)
    again = evaluation.player(experiment.env, 4, experiment.cfg.seed, purpose="judge")(found.policy, found.curriculum)
    assert evaluation.summarize(again, experiment.env.step_dt)["return"] == best.score
    # A task of other curricula plays them from the beginning, and says so.
    caplog.clear()
    cfg = load_frozen(run.config_path)
    cfg.task.curriculum["weight"] |= {"start": [2.0, 2.0], "end": [1.0, 1.0], "sets": None}
    other = build(cfg)
    assert load_trained(run, "best", other.env).curriculum is None and "other curricula" in caplog.text


def test_the_first_episodes_of_an_evaluation_start_at_that_level():
    """Carts are put where the curriculum says: it begins at 0 m, and has come to 0.7 m."""
    start = "{_target_: ksim.mdp.curriculum.linear, sets: events.reset_cart.position_range, start: [0.0, 0.0],"
    experiment = build(compose([*SMALL, f"+task.curriculum.start={start} end: [1.0, 1.0], num_steps: 10}}"]))
    begun = experiment.env.curriculum.initial()
    path = "task.curriculum.start"
    come_to = begun | {path: replace(begun[path], value=jnp.array([0.7, 0.7]))}
    policy = fresh_policy(experiment)
    for level, place in (({}, 0.0), (begun, 0.0), (come_to, 0.7)):
        played = evaluation.player(experiment.env, 3, 0)(policy, level)
        np.testing.assert_allclose(played.qpos_Tq[0, 0], place, atol=0.05)


def test_a_stopped_training_with_a_curriculum_judges_on(tmp_path):
    whole = fresh(tmp_path, "whole", 6, *OFTEN, *HARDER, "algo.learning_rate=0.01")
    run = fresh(tmp_path, "runs", 5, *OFTEN, *HARDER, "algo.learning_rate=0.01", "checkpoint.every_s=1e-6")
    (run.checkpoints / "best.json").unlink()
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}"]), run, resume=True)
    assert_same(run, whole)
    assert checkpoint.read_best(run.checkpoints) == checkpoint.read_best(whole.checkpoints)


def test_the_best_one_can_be_evaluated(judged, capsys):
    ksim_eval.main([f"run={judged.path}", "checkpoint=best", "episodes=2", "video=false"])
    best = checkpoint.read_best(judged.checkpoints)
    assert best is not None and f"checkpoint of step {best.step:,}" in capsys.readouterr().out


@pytest.mark.parametrize(("backend", "expected"), [("cpu", 128), ("gpu", 40_000)])
def test_on_an_accelerator_judging_takes_no_more_than_a_tenth_of_the_time(judged, monkeypatch, backend, expected):
    """Time follows the steps that are made one after the other there: an evaluation of 25 of them every 250."""
    experiment = build(load_frozen(judged.config_path))
    assert experiment.env.max_episode_steps == 25 and experiment.cfg.eval.interval_steps == 128
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    judge = Judge(experiment.env, 160, experiment.cfg.eval, 0, judged)
    assert judge.interval_steps == expected
    assert judge.is_due(expected - 16, expected) and not judge.is_due(expected, expected + 16)


def test_the_time_of_an_evaluation_counts_in_the_speed_that_is_shown(tmp_path, monkeypatch):
    """A judgement that takes a second leaves fewer than 128 steps per second in a chunk of 128."""

    def judge(self, policy, curriculum):
        time.sleep(1.0)
        return {"eval/return": 1.0, "eval_time_s": 1.0}

    monkeypatch.setattr(Judge, "judge", judge)
    run = fresh(tmp_path, "runs", 2, "eval.interval_steps=256")
    first, second = metrics.read(run.metrics_path)
    assert "eval_time_s" not in first and second["eval_time_s"] == 1.0
    assert second["env_steps_per_s"] < CHUNK and second["wall_time_s"] >= 1.0
