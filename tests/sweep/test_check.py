"""The pre-flight of a sweep: one message for each mistake, and nothing made."""

import re
import shlex

import pytest
from support.child import output

from ksim.errors import ConfigError
from ksim.sweep.preflight import preflight

MISTAKES = [
    ("launcher=local,slurm", "launcher=local,slurm: a sweep has one launcher; start a sweep for each of them"),
    ("hydra.sweep.dir=a,b", re.compile("Sweeping over Hydra's configuration is not supported")),
    ("runs_dir=a,b", re.compile("a sweep has one runs_dir")),
    (
        "hydra/launcher=submitit_slurm seed=1,2",
        "hydra/launcher=submitit_slurm: choose one with launcher=local, packed, submitit_local or slurm",
    ),
    ("--config-dir {my} launcher=own seed=1,2", re.compile("launcher=own: its jobs would read the YAML files anew")),
    (
        "launcher=slurm seed=1,2",
        "launcher=slurm: there is no Slurm here (no 'sbatch' on PATH); use its login node",
    ),
    (
        "seed=1,2 'hydra.sweep.dir=runs/${seed}'",
        re.compile("hydra.sweep.dir: must be one folder for the whole sweep, but would be .*/0 and .*/1; what differs"),
    ),
    (
        "task=cartpole_balance,kbot_standing 'hydra.sweep.dir=${name}'",
        re.compile("hydra.sweep.dir: must be one folder"),
    ),
    (
        "launcher=slurm hydra.launcher.partiton=x",
        re.compile(r"hydra\.launcher\.partiton: no such key \(did you mean 'part"),
    ),
    (
        "launcher=slurm +hydra.launcher.partiton=x",
        re.compile(r"hydra\.launcher\.partiton: no such key \(did you mean 'part"),
    ),
    ("+hydra.launcher.partition=x", "hydra.launcher.partition: no such key; launcher=local has no such setting"),
    ("'algo.learning_rate=interval(1e-4,1e-3)'", re.compile("BasicSweeper does not support .* see sweeper=optuna")),
    (
        "launcher=submitit_local hydra.launcher.nodes=2",
        "hydra.launcher.nodes: must be 1 with launcher=submitit_local, not 2; launcher=slurm has more",
    ),
    (
        "launcher=packed physics=mjx physics.devices=2 seed=1,2",
        re.compile(r"physics\.devices: must be 1 where jobs train side by side, not 2"),
    ),
    # searches: both ends of a range, each value of a choice, and what is fixed
    (
        "sweeper=optuna 'algo.gamma=interval(0.9,1.1)'",
        re.compile(r"algo\.gamma: .* not 1\.1 \[in the job sweeper=optuna algo\.gamma=1\.1\]"),
    ),
    ("sweeper=optuna '+algo.gama=interval(0.9,1.0)'", re.compile("algo.gama: no such key")),
    ("sweeper=optuna algo.schedule=fixed,adaptiv", re.compile("algo.schedule: there is no 'adaptiv'")),
    ("sweeper=optuna seed=1,2 algo.gamma=0", re.compile(r"algo\.gamma: .* not 0")),
    (
        "sweeper=optuna seed=1,2 eval.episodes=0",
        "eval.episodes: must be above 0, as a search compares the final evaluations",
    ),
]


@pytest.fixture
def my(tmp_path_factory):
    """A user's own YAML files: a launcher that is Hydra's, and one that builds on ksim's."""
    folder = tmp_path_factory.mktemp("my")
    (folder / "launcher").mkdir()
    for name, text in {
        "own": "defaults: [{override /hydra/launcher: submitit_slurm}]\n",
        "mine": "defaults: [submitit_local]\nhydra: {launcher: {cpus_per_task: 3}}\n",
    }.items():
        (folder / "launcher" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
    return folder


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_each_mistake_is_one_message_and_leaves_nothing(tmp_path, monkeypatch, my, command, message):
    if "sweeper=optuna" in command:
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError) as error:
        preflight(["-m", *shlex.split(command.format(my=my) if "{my}" in command else command)])
    text = str(error.value)
    assert message.search(text) if isinstance(message, re.Pattern) else text == message, text
    assert "\n" not in text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "physics=mujoco hydra.launcher.nodes=2",
            "hydra.launcher.nodes x tasks_per_node: must be 1 with physics=mujoco, which trains in one process, not 2",
        ),
        (
            "physics=mjx hydra.launcher.nodes=3 hydra.launcher.tasks_per_node=2 algo.num_envs=250 "
            "algo.num_env_states_per_minibatch=500 algo.num_minibatches=2",
            "algo.num_envs: must be a multiple of 6, so that each device gets as many (",
        ),
        (
            "physics=mjx hydra.launcher.nodes=2 hydra.launcher.jobs_per_pack=2",
            "hydra.launcher.nodes: must be 1 where jobs_per_pack is above 1, not 2",
        ),
        ("physics=mjx hydra.launcher.tasks_per_node=0", "hydra.launcher.tasks_per_node: must be above 0, not 0"),
    ],
)
def test_processes_that_cannot_train_together_are_not_sent(tmp_path, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/true")
    with pytest.raises(ConfigError) as error:
        preflight(["-m", "launcher=slurm", "task=cartpole_balance", *command.split()])
    assert str(error.value).startswith(message), error.value
    assert list(tmp_path.iterdir()) == []


def test_two_sweeps_in_one_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["-m", "task=cartpole_balance", "seed=1,2"]
    made = [preflight(argv), preflight(argv)]
    assert [line[:-1] for line in made] == [argv, argv]
    folders = [line[-1].removeprefix("hydra.sweep.dir=").strip('"') for line in made]
    assert sorted(folders) == sorted(map(str, (tmp_path / "runs" / "sweeps").iterdir())) and len(set(folders)) == 2


def test_a_folder_that_is_named_is_left_to_the_launcher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["-m", "task=cartpole_balance", "seed=1,2", "hydra.sweep.dir=runs/mine"]
    assert preflight(argv) == argv and list(tmp_path.iterdir()) == []


def test_a_cluster_without_a_sweep_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="write: python -m ksim.run -m launcher=slurm 'algo.actor_hidden=\\[8\\]'"):
        preflight(["launcher=slurm", "algo.actor_hidden=[8]"])
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_builds_on_one_of_ksims_is_fine(tmp_path, monkeypatch, my):
    monkeypatch.chdir(tmp_path)
    argv = ["--config-dir", str(my), "-m", "launcher=mine", "seed=1,2", "hydra.sweep.dir=s"]
    assert preflight(argv) == argv


def test_a_search_without_its_extra_says_what_to_install(tmp_path):
    code = """
import sys
sys.modules["hydra_plugins.hydra_optuna_sweeper"] = None  # as if it were not there
from ksim.sweep.preflight import preflight
from ksim.errors import ConfigError
try:
    preflight(["-m", "sweeper=optuna", "seed=1,2"])
except ConfigError as error:
    print(error)
"""
    assert output(code).strip().endswith("install it with: pip install 'ksim[optuna]'")
