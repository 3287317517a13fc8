"""A stopped training goes on as if it had never stopped: bit by bit, from the command line, after any kind of end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.runs import CHUNK, SMALL, assert_same, final_state, fresh, lines_without_time

from ksim.errors import ConfigError, KsimError
from ksim.report import runs
from ksim.store import checkpoint, metrics, run_dir, status
from ksim.store.run_dir import RunDir
from ksim.training.loop import train
from ksim.training.resume import resumed_config

REPO = Path(__file__).resolve().parent.parent.parent


def command(cwd: Path, *argv: str) -> subprocess.Popen[str]:
    """`python -m ksim.run`, as a user gives it."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "ksim.run", *argv], cwd=cwd, env=environment, text=True, **pipes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunDir:
    """Six chunks in one go."""
    return fresh(tmp_path_factory.mktemp("undisturbed"), "runs", 6)


def test_training_2n_equals_n_then_n(tmp_path, undisturbed):
    run = fresh(tmp_path, "runs", 3)
    assert len(lines_without_time(run)) == 3
    # As if it had trained for an hour, and then lain for a day.
    lines = [line | {"wall_time_s": line["wall_time_s"] + 3600} for line in metrics.read(run.metrics_path)]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    begin = time.monotonic()
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}"]), run, resume=True)
    assert_same(run, undisturbed)
    times = [line["wall_time_s"] for line in metrics.read(run.metrics_path)]
    assert times == sorted(times) and times[2] > 3600 and times[5] < times[2] + time.monotonic() - begin
    assert status.read(run.status_path).state == "completed"
    assert "resumes" in json.loads(run.provenance_path.read_text())


def test_a_resume_with_nothing_left_to_train_keeps_its_step(tmp_path):
    """It plays the final evaluation again, and the report counts that."""
    run = fresh(tmp_path, "runs", 2, "eval.episodes=2", "eval.video=false")
    run.status_path.unlink()  # then the checkpoint alone knows the step
    train(resumed_config(run, ["eval.episodes=3"]), run, resume=True)
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.step) == ("completed", 2 * CHUNK)
    reported = runs.read(run.path)
    assert reported.evaluation["episodes"] == 3 and not reported.remarks


def test_a_signal_in_the_final_evaluation_ends_it_and_nothing_is_lost(tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    monkeypatch.setattr("ksim.training.records.evaluate_into", interrupted)
    with pytest.raises(SystemExit) as stopped:
        fresh(tmp_path, "runs", 2, "eval.episodes=2", "eval.video=false")
    assert stopped.value.code == 143
    run = run_dir.open("latest", tmp_path / "runs")
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.step) == ("interrupted", 2 * CHUNK)


REMEMBERING = """
++task.scene.sensors.touch={_target_:ksim.mdp.sensors.contact,geoms:cart,track_time:true}
+task.observations.actor.terms.air={_target_:ksim.mdp.observations.air_time,sensor:touch}
+task.observations.actor.terms.goal={_target_:ksim.mdp.observations.command,name:goal}
+task.observations.actor.enable_corruption=true
+task.observations.actor.terms.joint_pos.history=3
+task.observations.actor.terms.joint_pos.bias={type:uniform,low:-0.01,high:0.01}
+task.observations.actor.terms.joint_vel.delay={range_s:[0.0,0.1],hold_probability:0.5}
+task.actions.force.delay={range_s:[0.0,0.03]}
+task.actions.force.low_pass_hz=5.0
+task.commands.goal={_target_:ksim.mdp.commands.uniform,low:[-1.0],high:[1.0],resampling_time_range_s:[0.1,0.4]}
+task.rewards.rate={_target_:ksim.mdp.rewards.action_rate,weight:-0.01}
+task.events.mass={_target_:ksim.mdp.randomize.mass,mode:startup,bodies:pole,range:[0.5,2.0]}
+task.events.encoders={_target_:ksim.mdp.randomize.encoder_bias,mode:reset,range:[-0.01,0.01]}
+task.events.shove={_target_:ksim.mdp.events.external_force,mode:interval,interval_range_s:[0.1,0.3],bodies:pole,duration_range_s:[0.04,0.2]}
+task.events.shove.force_range=[-1.0,1.0]
+task.curriculum.harder={_target_:ksim.mdp.curriculum.by_episode_length,start:0.0,end:-1.0,long_steps:20,short_steps:5}
+task.curriculum.harder.sets=rewards.rate.weight
""".split()


def test_what_terms_remember_goes_on_too(tmp_path):
    """Contact times, histories, delays, filters, biases, commands, timers, forces, randomized models, levels."""
    undisturbed = fresh(tmp_path, "whole", 4, *REMEMBERING)
    run = fresh(tmp_path, "runs", 2, *REMEMBERING)
    half = final_state(run)
    train(resumed_config(run, [f"algo.total_steps={4 * CHUNK}"]), run, resume=True)
    assert_same(run, undisturbed)
    end = final_state(run)
    # What is compared is there, and goes on between the two halves.
    for part in (
        "touch",
        "goal",
        "joint_pos/pipeline",
        "joint_vel/pipeline",
        "actions.force",
        "shove",
        "harder",
        "timers",
    ):
        names = [name for name in end if part in name]
        assert any((half[name] != end[name]).any() for name in names), (part, list(end))
    masses = next(x for name, x in end.items() if "body_mass" in name)
    assert len(np.unique(masses)) > 10


def test_a_state_that_differs_is_noticed(tmp_path, undisturbed):
    """The comparison above can fail: one more chunk, or another seed, is another state."""
    other = fresh(tmp_path, "runs", 6, "seed=4")
    with pytest.raises(AssertionError):
        assert_same(other, undisturbed)


def test_lines_after_the_checkpoint_are_trained_again_not_doubled(tmp_path, undisturbed):
    """A killed training has log lines that its newest checkpoint does not know of."""
    run = fresh(tmp_path, "runs", 6)
    newest = max(checkpoint.steps(run.checkpoints))
    cfg = resumed_config(run, [])
    earlier = fresh(tmp_path, "earlier", 2)
    for step in checkpoint.steps(run.checkpoints):
        (run.checkpoints / str(step)).rename(tmp_path / f"gone-{step}")
    (earlier.checkpoints / str(2 * CHUNK)).rename(run.checkpoints / str(2 * CHUNK))
    assert newest not in checkpoint.steps(run.checkpoints)
    train(cfg, run, resume=True)
    assert_same(run, undisturbed)


def test_without_a_checkpoint_it_starts_anew(tmp_path, undisturbed):
    run = fresh(tmp_path, "runs", 1)
    for step in checkpoint.steps(run.checkpoints):
        (run.checkpoints / str(step)).rename(tmp_path / "gone")
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}"]), run, resume=True)
    assert_same(run, undisturbed)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path, undisturbed, caplog):
    run = fresh(tmp_path, "runs", 4, "checkpoint.every_s=0.000001", "checkpoint.keep=3")
    policy = run.checkpoints / str(4 * CHUNK) / "train_state.npz"
    policy.write_bytes(policy.read_bytes()[:-100])
    train(resumed_config(run, [f"algo.total_steps={6 * CHUNK}"]), run, resume=True)
    assert "train_state.npz" in caplog.text
    assert_same(run, undisturbed)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("algo.learning_rate=1e-5", "algo.learning_rate"),
        ("task.rewards.upright.weight=2", "task.rewards.upright.weight"),
        ("physics.engine=mjx", "physics.engine"),
    ],
)
def test_what_would_make_another_training_is_refused(undisturbed, override, path):
    with pytest.raises(ConfigError, match=path):
        resumed_config(undisturbed, [override])


def test_what_may_change_may(undisturbed):
    changes = ["algo.total_steps=999", "checkpoint.keep=7", "eval.episodes=2", "log.interval_iterations=1"]
    cfg = resumed_config(undisturbed, changes)
    assert (cfg.algo.total_steps, cfg.checkpoint.keep, cfg.eval.episodes) == (999, 7, 2)
    assert resumed_config(undisturbed, ["algo.learning_rate=0.0005"]).algo.learning_rate == 0.0005  # the same


def test_a_run_in_use_is_refused(undisturbed):
    with undisturbed.lock(), pytest.raises(KsimError, match="in use"):
        train(resumed_config(undisturbed, []), undisturbed, resume=True)


def wait_for(run: Path, num_lines: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list(run.glob("runs/cartpole_balance/*-*/metrics.jsonl"))
        if found and len(metrics.read(found[0])) >= num_lines:
            return
        time.sleep(0.02)
    pytest.fail(f"no log lines: {process.communicate()[1]}")


@pytest.mark.parametrize(("signum", "code", "state"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -9, None)])
def test_stopped_by_a_signal_and_resumed(tmp_path, signum, code, state):
    """Ctrl-C finishes the chunk, saves and says how to go on; a kill loses what came after the last checkpoint."""
    steps = f"algo.total_steps={3000 * CHUNK}"
    process = command(tmp_path, *SMALL, steps, "checkpoint.every_s=0.2")
    wait_for(tmp_path, 40, process)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    run = run_dir.open("latest", tmp_path / "runs")
    if state:
        assert status.read(run.status_path).state == state
        assert f"resume={run.path}" in out + err
    stopped_at = max(checkpoint.steps(run.checkpoints))
    total = stopped_at + 3 * CHUNK
    process = command(tmp_path, f"resume={run.path}", f"algo.total_steps={total}")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    whole = fresh(tmp_path, "whole", total // CHUNK)
    assert_same(run, whole)


@pytest.mark.training
def test_killed_again_and_again_at_random_moments(tmp_path):
    """Checkpoints are written all the time, so that kills fall into them, too; KSIM_TEST_KILLS sets how many."""
    rng = np.random.default_rng(0)
    num_kills = int(os.environ.get("KSIM_TEST_KILLS", "4"))
    num_chunks = 100 * (num_kills + 1)  # more than it comes to
    settings = (
        f"algo.total_steps={num_chunks * CHUNK}",
        "checkpoint.every_s=1e-6",
        "checkpoint.keep=3",
        "eval.interval_steps=2000",
    )
    argv: tuple[str, ...] = (*SMALL, *settings)
    kills, cut_short = 0, 0
    while kills < num_kills:
        lines = [len(metrics.read(path)) for path in tmp_path.glob("runs/cartpole_balance/*-*/metrics.jsonl")]
        process = command(tmp_path, *argv)
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0.0, 3.0))  # while it starts
        else:
            wait_for(tmp_path, sum(lines) + 1, process)
            time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        kills += 1
        runs = list(tmp_path.glob("runs/cartpole_balance/*-*/config.yaml"))
        if runs:
            argv = (f"resume={runs[0].parent}",)
            cut_short += any(path.name.startswith(".tmp-") for path in runs[0].parent.glob("checkpoints/.*"))
    process = command(tmp_path, *argv)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    run = run_dir.open("latest", tmp_path / "runs")
    print(f"{kills} kills, {cut_short} of them while a checkpoint was written")
    assert max(checkpoint.steps(run.checkpoints)) == num_chunks * CHUNK
    assert_same(run, fresh(tmp_path, "whole", num_chunks, settings[-1]))
