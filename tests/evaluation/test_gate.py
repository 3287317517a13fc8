"""Gates: what good is, checked before anything compiles, played, judged during a training, and ending it."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fake_env import FakeEnv
from support.runs import CHUNK, assert_same, fresh

from ksim.config.compose import compose, freeze, load_frozen
from ksim.config.gate import BoundCfg, ConditionCfg, bounds
from ksim.errors import ConfigError
from ksim.evaluation import conditions as gate_conditions
from ksim.evaluation import gate
from ksim.evaluation.episodes import evaluate, evaluate_until
from ksim.rl.actor_critic import GaussianPolicy
from ksim.rl.networks import MLP
from ksim.rl.normalizer import Normalizer
from ksim.store import checkpoint, metrics, status
from ksim.training.loop import train
from ksim.training.records import Records
from ksim.training.resume import resumed_config
from ksim.training.time_to_gate import TimeToGate

CARTPOLE = ("task=cartpole_balance", "+task.metrics.speed={_target_: ksim.mdp.metrics.torque_use}")
EASY = "+task.gate.conditions.any={bounds: {falls: {at_most: 1.0}}}"


def test_standing_has_a_gate_and_a_derived_task_inherits_and_changes_it():
    cfg = compose(["task=kbot_standing", "task.gate.conditions.pushed.bounds.falls.at_most=0.02"])
    found = {c.name: c for c in gate_conditions.conditions(cfg)}
    assert {name: [(b.figure, b.at_most) for b in c.bounds] for name, c in found.items()} == {
        "pushed_hard": [("falls", 0.05)],
        "pushed": [("falls", 0.02)],
        "unpushed": [("metric/drift/median", 0.25)],
    }
    assert cfg.task.gate is not None and cfg.task.gate.episodes == 256
    assert {name: (c.cfg.task.events["push"] or {}).get("speed") for name, c in found.items()} == {
        "pushed_hard": 0.5,
        "pushed": 0.3,
        "unpushed": None,
    }
    assert found["pushed"].cfg.task.events["push"]["interval_range_s"] == [3, 6]
    assert cfg.task.events["push"]["speed"] == [0.0, 0.6]  # the training's own


@pytest.mark.parametrize("removed", ["task.gate=null", "task.gate.conditions={}", "task.gate.conditions.any=null"])
def test_a_gate_and_a_condition_can_be_removed(removed, tmp_path):
    cfg = compose([*CARTPOLE, EASY])
    assert len(gate_conditions.conditions(cfg)) == 1
    (tmp_path / "config.yaml").write_text(freeze(compose([*CARTPOLE, EASY, removed])))
    assert gate_conditions.conditions(load_frozen(tmp_path / "config.yaml")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["x={bounds: {fals: {at_most: 0}}}"], r"conditions\.x\.bounds\.fals: .* \(did you mean 'falls'\?\)"),
        (["x={bounds: {sped: {at_most: 0}}}"], r"conditions\.x\.bounds\.sped: .* \(did you mean 'speed'\?\)"),
        (["x={bounds: {falls: {at_mos: 0}}}"], r"bounds\.falls\.at_mos: no such key \(did you mean 'at_most'"),
        (["x={bounds: {falls: {at_most: few}}}"], r"bounds\.falls\.at_most: must be a number or null, not 'few'"),
        (["x={bounds: {falls: {}}}"], r"bounds\.falls: bounds nothing; there are 'at_most', 'at_least'"),
        (["x={bounds: {falls: {median_at_most: 0}}}"], r"bounds\.falls: 'falls' has no median"),
        (["x={bounds: {}}"], r"conditions\.x\.bounds: there is none; write one such as"),
        (["x={overides: [], bounds: {falls: {at_most: 0}}}"], r"x\.overides: no such key \(did you mean 'overrides'"),
        (
            ["x={overrides: ['algo.gamma=1'], bounds: {falls: {at_most: 0}}}"],
            r"x\.overrides: algo\.gamma=1: a condition",
        ),
        (
            ["x={overrides: ['task.events.reset_pol=null'], bounds: {falls: {at_most: 0}}}"],
            r"x\.overrides: task\.events\.reset_pol: .*did you mean 'reset_pole'.*conditions\.x=null removes",
        ),
        (
            ["x={overrides: ['commands.twist=[0]'], bounds: {falls: {at_most: 0}}}"],
            r"x\.overrides: commands\.twist: the task has no such command",
        ),
    ],
)
def test_a_mistake_in_a_gate_is_told_before_anything_compiles(changes, message):
    cfg = compose([*CARTPOLE, *(f"+task.gate.conditions.{change}" for change in changes)])
    with pytest.raises(ConfigError, match=message):
        gate_conditions.check(cfg)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["eval.stop_at_gate=true"], r"eval\.stop_at_gate: the task has no gate"),
        (["eval.gate=true"], r"eval\.gate: the task has no gate"),
        ([EASY, "eval.stop_at_gate=true", "eval.interval_steps=null"], r"eval\.stop_at_gate: .* eval\.interval_steps"),
    ],
)
def test_what_eval_asks_of_a_gate_must_be_possible(changes, message):
    with pytest.raises(ConfigError, match=message):
        gate_conditions.check(compose([*CARTPOLE, *changes]))


def test_a_bound_holds_its_own_limit_and_never_nan():
    task = compose(CARTPOLE).task
    condition = ConditionCfg(
        bounds={"falls": BoundCfg(at_most=0.01), "speed": BoundCfg(at_least=1.0, median_at_most=2.0)}
    )
    falls, mean, median = bounds(condition, task, "here")
    assert [falls.holds(x) for x in (0.0, 0.01, 0.0101, float("nan"))] == [True, True, False, False]
    assert [mean.holds(x) for x in (0.9, 1.0, 99.0)] == [False, True, True]
    assert median.figure == "metric/speed/median" and not median.holds(2.1)
    assert (str(falls), falls.shown(0.0042), str(mean)) == ("≤ 1 %", "0.42 %", "≥ 1")


def untrained_policy() -> GaussianPolicy:
    network = MLP([1, 8, 2], "elu", last_scale=0.01, key=jax.random.key(0))
    return GaussianPolicy(Normalizer(jnp.zeros(1), jnp.full(1, 100.0), jnp.array(1.0)), network, jnp.ones(2), None)


@pytest.mark.parametrize("most_falls", [2, 5])
def test_a_judgement_plays_the_same_episodes_as_an_evaluation(most_falls):
    """Envs 1 and 3 of the five fall: that many may."""
    env, key = FakeEnv((2, 3, 100, 1, 6)), jax.random.key(1)
    whole = evaluate(env, untrained_policy(), key, num_envs=5, num_steps=6)
    ends, is_whole = jax.jit(partial(evaluate_until, env, num_envs=5, num_steps=6, most_falls=most_falls))(
        untrained_policy(), key
    )
    assert is_whole
    for name, value in whole.values.items():
        np.testing.assert_allclose(ends.values[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(ends.terminated, whole.terminated)
    assert ends.terminated.tolist() == [False, True, False, True, False]


def test_a_judgement_is_over_once_too_many_fell():
    env = FakeEnv((2, 3, 100, 1, 6))
    ends, is_whole = jax.jit(partial(evaluate_until, env, num_envs=5, num_steps=6, most_falls=0))(
        untrained_policy(), jax.random.key(1)
    )
    assert not is_whole
    assert ends.terminated.tolist() == [False, False, False, True, False]
    assert ends.values["length"].tolist() == [1, 1, 1, 1, 1]  # env 3 fell in the first step


def test_each_judgement_plays_episodes_of_its_own_where_the_curricula_stand(monkeypatch):
    judge = gate.GateJudge(compose([*CARTPOLE, EASY]), 0)
    seen = []
    terms = {"level": SimpleNamespace(path="task.curriculum.level")}
    env = SimpleNamespace(curriculum=SimpleNamespace(terms=terms))

    def play(policy, key, curriculum):
        seen.append((jax.random.key_data(key).tolist(), curriculum))
        return {"falls": 0.0}

    monkeypatch.setattr(judge, "_player", lambda condition: (env, play))
    levels = {"task.curriculum.level": 0.7, "num_steps": 9}
    for step in (100, 200, 100):
        judge.judge(None, levels, step)  # type: ignore[arg-type]
    keys = [key for key, _ in seen]
    assert keys[0] == keys[2] != keys[1] and all(curriculum is levels for _, curriculum in seen)


def test_the_time_of_a_judgement_is_that_of_all_its_evaluations():
    def judge(*_, **numbers):
        return SimpleNamespace(judge=lambda *_: dict(numbers))

    records = SimpleNamespace(judge=judge(eval_time_s=2.0), gate=judge(eval_time_s=3.0), step=0)
    assert Records.judged(records, None, {})["eval_time_s"] == 5.0  # type: ignore[arg-type]


def test_one_pass_alone_is_not_enough():
    cfg = compose([*CARTPOLE, EASY, "eval.stop_at_gate=true"])
    times = [
        {"gate/passed": x, "wall_time_s": 10.0 * i, "eval_time_s": 1.0} for i, x in enumerate((1.0, 0.0, 1.0, 1.0))
    ]
    told = []
    to_gate = TimeToGate(cfg, 0)
    listener = SimpleNamespace(passed=lambda *figures: told.append(figures))
    seen = [to_gate.look(line, 100 * i, listener) for i, line in enumerate(times)]  # type: ignore[arg-type]
    assert seen == [{}, {}, {}, {"gate/step": 300.0, "gate/time_s": 26.0}] and told == [(300, 26.0)]
    recalled = TimeToGate(cfg, 0)
    recalled.recall([{"step": 1}, *times[:3]])
    assert not recalled.is_passed
    assert recalled.look(times[3], 300, listener) == seen[3]  # type: ignore[arg-type]


STOPPING = (
    EASY,
    "task.gate.episodes=4",
    "eval.stop_at_gate=true",
    "eval.interval_steps=128",
    "eval.interval_episodes=4",
)


def test_a_training_ends_at_its_gate_and_a_resumed_one_at_the_same_step(tmp_path):
    undisturbed = fresh(tmp_path, "whole", 9, *STOPPING)
    found = status.read(undisturbed.status_path)
    assert found is not None and (found.state, found.step) == ("completed", 2 * CHUNK)
    lines = metrics.read(undisturbed.metrics_path)
    assert [line["gate/passed"] for line in lines] == [1.0, 1.0] and "gate/any/falls" in lines[0]
    assert "gate/step" not in lines[0] and lines[1]["gate/step"] == 2 * CHUNK
    assert found.gate == {"step": 2 * CHUNK, "time_s": lines[1]["gate/time_s"]}
    assert 0 < lines[1]["gate/time_s"] < lines[1]["wall_time_s"]
    assert checkpoint.steps(undisturbed.checkpoints)[-1] == 2 * CHUNK

    run = fresh(tmp_path, "runs", 1, *STOPPING)  # one pass, then killed between a line and its checkpoint
    with run.metrics_path.open("a") as file:
        file.write(undisturbed.metrics_path.read_text().splitlines(keepends=True)[1])
    train(resumed_config(run, [f"algo.total_steps={9 * CHUNK}"]), run, resume=True)
    assert_same(run, undisturbed)
