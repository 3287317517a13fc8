"""Which runs belong together, and what is said to tell the groups apart."""

import json
from pathlib import Path

import pytest

from ksim.report import groups, runs
from ksim.report.groups import ABSENT, differing, shortened, shown


def tasks(*made):
    return groups.grouped([runs.read(run.path) for run in made])


def test_runs_that_differ_in_the_seed_alone_are_a_group(make_run):
    (task,) = tasks(*(make_run(f"{seed}", seed=seed) for seed in (3, 1, 2)))
    (group,) = task.groups
    assert task.name == "cartpole_balance" and task.paths == [] and task.label(group) == ""
    assert [run.seed for run in group.runs] == [run.seed for run in group.counted] == [1, 2, 3]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("runs_dir", "elsewhere"),
        ("logger.wandb", {"_target_": "ksim.loggers.wandb.WandbLogger"}),
        ("log.interval_iterations", 7),
        ("checkpoint.every_s", 1.0),
        ("eval.episodes", 3),
        ("physics.threads", 7),
        ("physics.devices", 2),
        ("task.viewer.width", 7),
        ("task.gate.episodes", 7),
        ("eval.interval_steps", 7),
    ],
)
def test_what_cannot_change_the_result_parts_no_group(make_run, path, value):
    (task,) = tasks(make_run("a"), make_run("b", {path: value}, seed=1))
    assert len(task.groups) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("algo.total_steps", 7),
        ("algo.actor_hidden", [1, 2]),
        ("physics.engine", "mjx"),
        ("task.rewards.upright.weight", 7.0),
        ("task.sim.timestep", 0.1),
    ],
)
def test_everything_else_does(make_run, path, value):
    (task,) = tasks(make_run("a"), make_run("b", {path: value}, seed=1))
    assert task.paths == [path]
    assert value in [group.values[path] for group in task.groups]


@pytest.mark.parametrize("path", ["task.gate.episodes", "eval.interval_steps"])
def test_where_a_training_ends_at_its_gate_the_gate_counts(make_run, path):
    stops = {"eval.stop_at_gate": True}
    (task,) = tasks(make_run("a", stops), make_run("b", {**stops, path: 7}, seed=1), make_run("c", seed=1))
    assert len(task.groups) == 3


def test_a_term_that_is_missing_is_one_path(make_run):
    new = {"_target_": "my.low_spin", "weight": 0.5, "std": 2.0}
    (task,) = tasks(
        make_run("a"), make_run("b", {"task.rewards.upright": None}), make_run("c", {"task.rewards.low_spin": new})
    )
    assert sorted(task.paths) == ["task.rewards.low_spin", "task.rewards.upright"]
    by_run = {Path(group.runs[0].path).name: group for group in task.groups}
    assert by_run["b"].values["task.rewards.upright"] is None
    assert by_run["a"].values["task.rewards.low_spin"] is ABSENT
    assert "low_spin=low_spin" in task.label(by_run["c"]) and "upright=pole_upright" in task.label(by_run["c"])
    assert "upright=null" in task.label(by_run["b"]) and "low_spin=–" in task.label(by_run["b"])


def test_labels_tell_terms_of_other_parameters_apart(make_run):
    new = [{"_target_": "my.low_spin", "std": std} for std in (1.0, 2.0)]
    (task,) = tasks(make_run("a"), *(make_run(f"{i}", {"task.rewards.low_spin": term}) for i, term in enumerate(new)))
    labels = [task.label(group) for group in task.groups]
    assert labels == ["low_spin=low_spin(std=1.0)", "low_spin=low_spin(std=2.0)", "low_spin=–"]


def test_the_number_of_envs_is_one_path(make_run):
    (task,) = tasks(make_run("a"), make_run("b", {"algo.num_envs": 4}))
    assert task.paths == ["algo.num_envs"]


def test_groups_are_sorted_by_what_differs(make_run):
    rates = [1e-3, 3e-4, 1e-2]
    (task,) = tasks(*(make_run(f"{rate}", {"algo.learning_rate": rate}) for rate in rates))
    assert [group.values["algo.learning_rate"] for group in task.groups] == sorted(rates)
    assert task.label(task.groups[0]) == "learning_rate=0.0003"


def test_tasks_are_apart(make_run):
    """And in the order of their names, as people count."""
    names = ["other10", "cartpole_balance", "other9", "other10"]
    found = tasks(*(make_run(str(i), {"name": name}, seed=i) for i, name in enumerate(names)))
    assert [(task.name, len(task.groups), task.paths) for task in found] == [
        ("cartpole_balance", 1, []),
        ("other9", 1, []),
        ("other10", 1, []),
    ]


def test_a_seed_counts_once(make_run):
    made = {
        "far": make_run("far", state="failed", returns=[1.0] * 9),
        "whole": make_run("whole", returns=[1.0] * 3),
        "new": make_run("new", state="interrupted", returns=[1.0] * 2),
        "other": make_run("other", seed=1, state="failed", returns=[1.0]),
        "further": make_run("further", seed=1, state="failed", returns=[1.0] * 2),
    }
    (task,) = tasks(*made.values())
    (group,) = task.groups
    assert [run.path.name for run in group.counted] == ["whole", "further"]
    assert len(group.runs) == 5


def test_of_runs_that_got_equally_far_the_newest_counts(make_run):
    """By when they began, then by their numbers, as where they began within one second."""

    def run(name, hour):
        made = make_run(name)
        at = {"started_at": f"2026-01-31T{hour}:00:00+00:00"}
        made.status_path.write_text(json.dumps(json.loads(made.status_path.read_text()) | at))
        return made

    made = [run("2_b", 13), run("3_c", 12), run("9_d", 13), run("10_e", 13)]
    for some, name in ((made[:2], "2_b"), (made, "10_e")):
        (task,) = tasks(*some)
        assert [run.path.name for run in task.groups[0].counted] == [name]


def test_differing_paths_of_plain_mappings():
    a = {"x": 1, "same": {"y": [1, 2]}, "deep": {"u": 1, "v": {"w": 1}}}
    b = {"x": 1, "same": {"y": [1, 2]}, "deep": {"u": 1, "v": {"w": 2}}, "extra": 0}
    assert list(differing([a, b])) == ["deep.v.w", "extra"]
    assert list(differing([a])) == []
    assert list(differing([{"x": None}, {}])) == ["x"]  # null is not the same as nothing


def test_paths_are_as_short_as_they_can_be():
    paths = ["algo.gamma", "task.rewards.upright.weight", "task.rewards.alive.weight"]
    assert list(shortened(paths).values()) == ["gamma", "upright.weight", "alive.weight"]
    assert shortened(["a.b", "b"]) == {"a.b": "a.b", "b": "b"}


def test_values_are_shown_briefly():
    values = {"null": None, "true": True, "0.0003": 3e-4, "relu": "relu", "[1, 2]": [1, 2], "–": ABSENT}
    values |= {"spin(std=1.0)": {"_target_": "my.spin", "std": 1.0}, "{.*: 0.5, b: null}": {".*": 0.5, "b": None}}
    assert [shown(value) for value in values.values()] == list(values)
