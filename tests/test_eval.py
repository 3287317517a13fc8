"""`python -m ksim.eval`: numbers of a saved run, of a changed task too; it touches nothing but its own folder."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ksim import eval as ksim_eval
from ksim.config import compose
from ksim.config.compose import load_frozen
from ksim.config.schema import Config
from ksim.errors import ConfigError, KsimError
from ksim.evaluation import evaluate as evaluation
from ksim.evaluation.episodes import Episodes
from ksim.evaluation.evaluate import summarize
from ksim.evaluation.first import reward_rates
from ksim.store import checkpoint, run_dir
from ksim.store.run_dir import RunDir
from ksim.system import trust
from ksim.training.loop import train

REPO = Path(__file__).resolve().parent.parent
SMALL = """
task=cartpole_balance physics=mujoco algo.num_envs=16 algo.num_env_states_per_minibatch=32 algo.num_minibatches=2
algo.num_learning_epochs=2 algo.actor_hidden=[16] algo.critic_hidden=[16] algo.total_steps=256
log.interval_iterations=2 checkpoint.every_s=1e-6 eval.episodes=8 eval.video=false physics.threads=1
task.episode_length_s=1
""".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunDir:
    """A run with checkpoints at 128 and 256 steps, in `runs`."""
    cfg = compose.compose([*SMALL, f"runs_dir={tmp_path_factory.mktemp('trained') / 'runs'}"])
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    train(cfg, run)
    return run


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> RunDir:
    """A copy of it with nothing evaluated yet, in the working directory."""
    shutil.copytree(trained.path.parents[1], tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    copied = run_dir.open("latest")
    shutil.rmtree(copied.eval)
    return copied


def evaluate(run: RunDir, *argv: str) -> dict:
    """What a new evaluation of the run wrote into `metrics.json`."""
    before = set(run.eval.glob("*"))
    ksim_eval.main([f"run={run.path}", "episodes=8", "video=false", *argv])
    (folder,) = set(run.eval.iterdir()) - before
    return json.loads((folder / "metrics.json").read_text()) | {"folder": folder}


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_evaluation_touches_nothing_but_its_own_folder(run):
    before = contents(run.path)
    found = evaluate(run)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", found["folder"].name)
    assert {p.name for p in found["folder"].iterdir()} == {
        "metrics.json",
        "joint_positions.png",
        "joint_velocities.png",
        "actions.png",
        "rewards.png",
    }
    after = {name: value for name, value in contents(run.path).items() if str(found["folder"]) not in name}
    assert after == before


def test_it_writes_what_was_asked_and_what_was_found(run):
    found = evaluate(run, "checkpoint=128", "seed=5", "task.rewards.upright.weight=0.25")
    assert found["step"] == 128 and found["overrides"] == ["task.rewards.upright.weight=0.25"]
    assert found["engine"]["engine"] == "mujoco" and "C MuJoCo" in found["engine"]["reason"]
    assert found["options"]["checkpoint"] == "128" and found["options"]["seed"] == 5
    summary = found["summary"]
    assert summary["seed"] == 5 and summary["episodes"] == 8
    assert 0 < summary["episode_length_s"] <= 1.0 and summary["return"] > 0
    assert summary["falls_low"] <= summary["falls"] <= summary["falls_high"]
    assert summary["termination/fallen"] + summary["termination/time_out"] == 1.0
    assert {"reward/upright", "reward/centered"} <= set(summary)
    assert summary["reward/upright"] <= 0.25


GATE = (
    "+task.metrics.use={_target_: ksim.mdp.metrics.torque_use}",
    "task.gate.episodes=8",
    "+task.gate.conditions.tilted={overrides: ['task.events.reset_pole.position_range=[0.5,0.6]'],"
    " bounds: {falls: {at_most: 0.5}, use: {median_at_least: 0.0}}}",
)


def test_a_gate_is_played_condition_by_condition_and_fails_with_3(run, capsys):
    before = set(run.eval.glob("*"))
    with pytest.raises(SystemExit) as failed:
        ksim_eval.main([f"run={run.path}", "episodes=8", "video=false", "gate=true", *GATE])
    assert failed.value.code == 3
    printed = capsys.readouterr().out
    assert "the gate is NOT passed" in printed and re.search(r"tilted.*falls.*100 %.*≤ 50 %.*FAILS", printed)
    assert re.search(r"median use.*≥ 0.*passed", printed)
    (folder,) = set(run.eval.iterdir()) - before
    found = json.loads((folder / "gate.json").read_text())
    assert found["passed"] is False and found["step"] == 256 and found["engine"]["engine"] == "mujoco"
    falls, use = found["conditions"]["tilted"]["bounds"]
    assert (falls["figure"], falls["value"], falls["at_most"], falls["passed"]) == ("falls", 1.0, 0.5, False)
    assert use["figure"] == "metric/use/median" and use["passed"]
    # The same episodes as those of a plain evaluation with these overrides.
    plain = evaluate(run, "task.events.reset_pole.position_range=[0.5,0.6]", GATE[0])["summary"]
    assert found["conditions"]["tilted"]["summary"] == {k: v for k, v in plain.items() if k != "seed"}


def test_a_plain_evaluation_shows_the_bounds_and_a_passed_gate_ends_with_0(run, capsys):
    easy = "task.gate.conditions.tilted.bounds.falls.at_most=1.0"
    evaluate(run, *GATE)
    assert re.search(r"falls.*≤ 50 % \(tilted\)", capsys.readouterr().out)
    found = evaluate(run, "gate=true", *GATE, easy)
    assert json.loads((found["folder"] / "gate.json").read_text())["passed"] is True


def test_a_gate_that_is_not_there_cannot_be_played(run):
    with pytest.raises(ConfigError, match="gate=true: the task has no gate"):
        evaluate(run, "gate=true")


def test_the_training_ends_with_the_same_evaluation(trained, run):
    final = json.loads((trained.eval / "final" / "metrics.json").read_text())
    assert evaluate(run)["summary"] == final["summary"]


def test_the_seed_of_the_episodes_decides_the_numbers(run):
    first, again, other = (evaluate(run, f"seed={seed}")["summary"] for seed in (7, 7, 8))
    assert first == again
    assert first["return"] != other["return"]


def test_checkpoints_are_named_as_the_store_names_them(run):
    assert [evaluate(run, f"checkpoint={which}")["step"] for which in ("#1", "#2", "latest", "best")] == [
        128,
        256,
        256,
        256,
    ]


def test_the_task_can_be_changed(run):
    short = evaluate(run, "task.episode_length_s=0.2", "task.terminations.fallen=null")
    assert short["summary"]["episode_length_s"] == pytest.approx(0.2)
    assert "termination/fallen" not in short["summary"]
    endless = evaluate(run, "task.episode_length_s=0", *(f"task.terminations.{n}=null" for n in ("fallen", "time_out")))
    assert endless["summary"]["episode_length_s"] == pytest.approx(20.0)  # 1,000 steps
    new = "+task.metrics.speed={_target_: own_metrics.speed}"
    Path("own_metrics.py").write_text("def speed(ctx): return abs(ctx.joint_vel[0])\n")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = evaluate(run, "task.events.reset_pole.position_range=[0.5,0.6]", new)
    finally:
        sys.path.remove(str(Path.cwd()))
        sys.modules.pop("own_metrics", None)
    assert found["summary"]["metric/speed"] > 0 and "metric/speed/median" in found["summary"]
    assert found["summary"]["falls"] == 1.0  # 0.5 rad is more than this policy can catch
    assert load_frozen(run.config_path).task.episode_length_s == 1.0


def test_a_command_is_held_and_plotted(run):
    command = {"_target_": "ksim.mdp.commands.uniform", "low": [-1.0], "high": [1.0], "resampling_time_range_s": [1, 1]}
    metric = {"_target_": "own_metrics.goal"}
    Path("own_metrics.py").write_text("def goal(ctx): return ctx.command('goal')[0]\n")
    cfg = load_frozen(run.config_path)
    cfg = dataclasses.replace(
        cfg, task=dataclasses.replace(cfg.task, commands={"goal": command}, metrics={"goal": metric})
    )
    sys.path.insert(0, str(Path.cwd()))
    try:
        run.config_path.write_text(compose.freeze(cfg))
        trust.sign(run.config_path)
        found = evaluate(run, "task.episode_length_s=0.1", "commands.goal=[0.25]")
        with pytest.raises(ConfigError, match=r"commands.gaol: the task has no such command \(did you mean 'goal'\?\)"):
            evaluate(run, "commands.gaol=[1]")
    finally:
        sys.path.remove(str(Path.cwd()))
        sys.modules.pop("own_metrics", None)
    assert found["summary"]["metric/goal"] == 0.25
    assert (found["folder"] / "commands.png").exists()


def test_a_robustness_table_has_a_row_for_each_perturbation(run, capsys):
    found = evaluate(run, "task.episode_length_s=0.4", "mass=[0.5,8]", "latency_s=[0.1]", "seed=1")
    rows = {(row["name"], row["value"]): row["summary"] for row in found["robustness"]}
    assert list(rows) == [("mass", 0.5), ("mass", 8.0), ("latency_s", 0.1)]
    returns = [found["summary"]["return"], *(summary["return"] for summary in rows.values())]
    assert len(set(returns)) == 4
    out = capsys.readouterr().out
    assert "robustness" in out and all(f"{value:.3f}" in out for value in returns)
    with pytest.raises(ConfigError, match="mass: each must be 0.001 or more"):
        evaluate(run, "mass=[0]")


def test_another_engine_plays_the_same_policy(run, capsys):
    here, there = evaluate(run, "task.episode_length_s=0.2"), evaluate(run, "task.episode_length_s=0.2", "physics=mjx")
    assert there["engine"]["engine"] == "mjx" and here["on_the_training_engine"] is None
    out = capsys.readouterr().out
    assert "the training was on mujoco" in out
    gap = there["summary"]["return"] - here["summary"]["return"]
    assert there["on_the_training_engine"]["return"] == here["summary"]["return"]
    assert f"{gap:+.3f}" in out and abs(gap) < 0.02 * here["summary"]["return"]


def test_what_is_printed_names_engine_numbers_and_files(run, capsys):
    found = evaluate(run)
    out = capsys.readouterr().out
    assert f"run:     {run.path}, checkpoint of step 256" in out
    assert "physics: C MuJoCo on 1 CPU thread, as physics=mujoco asks\n" in out
    assert f"{found['summary']['return']:.3f}" in out and "95 % interval" in out
    assert f"{found['folder']}/metrics.json" in out.splitlines()


def test_evaluations_in_the_same_second_have_folders_of_their_own(run, monkeypatch):
    monkeypatch.setattr(ksim_eval.files, "stamp", lambda: "2026-01-01_00-00-00")
    for name in ("2026-01-01_00-00-00", "2026-01-01_00-00-00_1", "2026-01-01_00-00-00_2"):
        assert evaluate(run, "task.episode_length_s=0.1")["folder"].name == name


def test_a_failed_evaluation_leaves_nothing(run, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "show_first", full)
    before = contents(run.path)
    with pytest.raises(KsimError, match=r"eval/.* cannot be written: No space left on device"):
        evaluate(run, "task.episode_length_s=0.1")
    assert contents(run.path) == before and not run.eval.exists()


def test_a_damaged_checkpoint_is_passed_over(run, caplog):
    (run.checkpoints / "256" / "policy.npz").write_bytes(b"")
    assert evaluate(run, "task.episode_length_s=0.1")["step"] == 128
    assert "256/policy.npz is empty" in caplog.text
    with pytest.raises(checkpoint.CheckpointError, match="256/policy.npz is empty"):
        evaluate(run, "checkpoint=256")
    (run.checkpoints / "128" / "manifest.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="every checkpoint .* damaged: .*manifest.json is missing"):
        evaluate(run)


MISTAKES = [
    ([], "run: is missing; write run=<run directory or latest>"),
    (["latest"], "latest: is not an option of the form key=value; see --help"),
    (["run=runs/nothing"], re.compile("runs/nothing does not exist; the newest runs nearby: ")),
    (["run=latest", "runs_dir=elsewhere"], re.compile("no run in .*/elsewhere yet")),
    (["run=latest", "epsiodes=3"], "epsiodes: no such option (did you mean 'episodes'?)"),
    (["run=latest", "episodes=many"], "episodes: must be a whole number, not 'many'"),
    (["run=latest", "episodes=0"], "episodes: must be above 0, not 0"),
    (["run=latest", "seed=-1"], "seed: must be 0 or more, not -1"),
    (["run=latest", "video=perhaps"], "video: must be true or false, not 'perhaps'"),
    (["run=latest", "checkpoint=7"], re.compile("there is no checkpoint '7' in .*; there are: best, latest, 128, 256")),
    (["run=latest", "checkpoint=#3"], re.compile("there is no checkpoint '#3'")),
    (["run=latest", "physics=mjy"], re.compile(r"physics\.engine: there is no 'mjy' \(did you mean 'mjx'\?\)")),
    (["run=latest", "algo.gamma=0.9"], re.compile(r"algo\.gamma: no such option .*and task\.<path>")),
    (["run=latest", "task.episode_length_s"], re.compile("task.episode_length_s: is not an override of the form")),
    (["run=latest", "task.episode_length_s=1,2"], "task.episode_length_s=1,2 is a sweep; give one value"),
    (["run=latest", "task.episode_length_s=x"], "task.episode_length_s: must be a number, not 'x'"),
    (["run=latest", "task.episode_lenght_s=1"], re.compile(r"task\.episode_lenght_s: .*mean 'episode_length_s'")),
    (["run=latest", "task.rewards.uprigth.weight=1"], re.compile(r"task\.rewards\.uprigth: .* mean 'upright'")),
    (["run=latest", "+task.rewards.upright.std=1"], re.compile(r"task\.rewards\.upright\.std: .*no parameter 'std'")),
    (["run=latest", "task.decimation=0"], "task.decimation: must be above 0, not 0"),
    (
        ["run=latest", "task.actions.force.joints=slidr"],
        re.compile(r"task\.actions\.force: no .* 'slidr'"),
    ),
    (
        ["run=latest", "task.observations.actor.terms.joint_vel=null"],
        re.compile(
            r"256 does not fit: its policy sees 4 elements, this task shows 2 "
            r"\(task\.observations\.actor\.terms: joint_vel\)"
        ),
    ),
    (["run=latest", "checkpoint_num=3"], re.compile("checkpoint_num=3 is a flag of K-Scale's earlier ksim")),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES, ids=[" ".join(argv) for argv, _ in MISTAKES])
def test_each_mistake_is_one_message_and_leaves_nothing(run, argv, message):
    before = contents(run.path.parents[1])
    with pytest.raises(KsimError) as error:
        ksim_eval.main(argv)
    text = str(error.value)
    assert "\n" not in text
    if isinstance(message, re.Pattern):
        assert message.search(text), text
    else:
        assert text == message
    assert contents(run.path.parents[1]) == before and not run.eval.exists()


def test_as_a_process(run):
    def command(*argv: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.run(
            [sys.executable, "-m", "ksim.eval", *argv], env=env, capture_output=True, text=True, timeout=300
        )

    usage = command("--help")
    assert usage.returncode == 0 and usage.stdout.startswith("usage: python -m ksim.eval run=<run>")
    wrong = command("run=latest", "episods=3")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr == "error: episods: no such option (did you mean 'episodes'?)\n"
    right = command("run=latest", "episodes=2", "task.episode_length_s=0.2")
    assert right.returncode == 0, right.stderr
    assert "Traceback" not in right.stderr
    (folder,) = run.eval.iterdir()
    assert (folder / "video.mp4").is_file() or "No video" in right.stderr


# Parts. ---------------------------------------------------------------------------------------------------------------


def test_overrides_of_a_config_are_those_of_its_composition():
    base = ["task=cartpole_balance", "seed=3"]
    new = ["task.rewards.upright.weight=2", "task.events.reset_pole=null"]
    new += ["+task.metrics.x={_target_: ksim.mdp.metrics.speed}"]
    changed = compose.with_overrides(compose.compose(base), new)
    assert isinstance(changed, Config) and changed == compose.compose([*base, *new])
    with pytest.raises(ConfigError, match="algo.gamma: must be above 0"):
        compose.with_overrides(compose.compose(base), ["algo.gamma=0"])


def test_the_summary_is_the_mean_of_the_episodes():
    episodes = Episodes(
        values={
            "return": np.array([1.0, 3.0]),
            "length": np.array([10.0, 20.0]),
            "reward/up": np.array([0.5, 1.0]),
            "metric/drift": np.array([0.0, 1.0]),
        },
        terminated=np.array([True, False]),
        ends={"fallen": np.array([True, False]), "time_out": np.array([False, True])},
        qpos_Tq=np.zeros((3, 2)),
        qvel_Tv=np.zeros((3, 2)),
        action_Ta=np.zeros((3, 1)),
        command_Tn={},
        means_T={"length": np.array([1.0, 2.0, 3.0]), "reward/up": np.array([0.5, 1.0, 2.0])},
    )
    assert reward_rates(episodes)["up"].tolist() == [0.5, 1.5, 4.0]
    summary = summarize(episodes, 0.02)
    assert summary.pop("falls_low") == pytest.approx(0.0945, abs=1e-4)  # from a table of Wilson's interval
    assert summary.pop("falls_high") == pytest.approx(0.9055, abs=1e-4)
    assert summary == pytest.approx(
        {
            "return": 2.0,
            "episode_length_s": 0.3,
            "falls": 0.5,
            "reward/up": 0.75,
            "metric/drift": 0.5,
            "metric/drift/median": 0.5,
            "termination/fallen": 0.5,
            "termination/time_out": 0.5,
            "episodes": 2.0,
        }
    )


@pytest.mark.parametrize(("falls", "low", "high"), [(0, 0.0, 0.0148), (256, 0.9852, 1.0)])
def test_the_interval_of_no_falls_is_not_empty(falls, low, high):
    first = {"return": np.zeros(256), "length": np.ones(256)}
    empty = np.zeros((1, 1))
    episodes = Episodes(first, np.arange(256) < falls, {}, empty, empty, empty, {}, {})
    summary = summarize(episodes, 0.02)
    assert summary["falls_low"] == pytest.approx(low, abs=1e-4)
    assert summary["falls_high"] == pytest.approx(high, abs=1e-4)
