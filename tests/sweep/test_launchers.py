"""Sweeps on one machine: what is frozen, what is done again, what a failure, a Ctrl-C and a dead launcher leave."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ksim.store import status
from ksim.sweep.launchers import _shares

SWEEP = ("-m", "task=cartpole_balance", "hydra.sweep.dir=s")
FIRST, SECOND = "0_seed=1", "1_seed=2"

NO_BACKEND = """
import atexit

@atexit.register
def check():
    from jax._src import xla_bridge
    print("backends:", len(xla_bridge._backends))

from ksim.run import main
main()
"""


def wait_for(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def state(run: Path) -> str | None:
    found = status.read(run / "status.json")
    return found.state if found else None


@pytest.mark.parametrize("launcher", ["local", "submitit_local"])
def test_a_sweep_and_the_same_again(cwd, launcher):
    code, printed = cwd.run(*SWEEP, f"launcher={launcher}", "seed=1,2", code=NO_BACKEND)
    assert code == 0, printed
    assert "backends: 0" in printed
    assert str(cwd.path / "s") in printed and f"{FIRST}: completed, return 99.500" in printed
    jobs = cwd.jobs("s")
    assert list(jobs) == [FIRST, SECOND]
    for path in jobs.values():
        assert state(path) == "completed"
        assert sorted(p.name for p in (path / ".hydra").iterdir()) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    code, printed = cwd.run(*SWEEP, f"launcher={launcher}", "seed=1,2,3")
    assert code == 0 and "3 jobs (2 done before)" in printed
    assert set(cwd.trainings("s").values()) == {1} and len(cwd.jobs("s")) == 3


def test_a_failure_leaves_the_others_alone_and_can_be_tried_again(cwd):
    (cwd.path / "fail-1").touch()
    code, printed = cwd.run(*SWEEP, "launcher=submitit_local", "seed=1,2")
    assert code == 1
    assert f"{FIRST}: failed: ValueError: no luck; see {cwd.path}/s/{FIRST}/train.log" in printed
    assert "1 of 2 jobs did not complete" in printed and "Traceback" not in printed
    jobs = cwd.jobs("s")
    assert (state(jobs[FIRST]), state(jobs[SECOND])) == ("failed", "completed")
    (cwd.path / "fail-1").unlink()
    code, printed = cwd.run(*SWEEP, "launcher=local", "seed=1,2")  # any launcher may go on with it
    assert code == 0, printed
    assert cwd.trainings("s") == {FIRST: 2, SECOND: 1}


def test_a_failure_in_the_launching_process_too(cwd):
    (cwd.path / "fail-1").touch()
    code, printed = cwd.run(*SWEEP, "launcher=local", "seed=1,2")
    assert code == 1 and f"{FIRST}: failed: ValueError: no luck" in printed and f"{SECOND}: completed" in printed


def test_yaml_files_that_change_change_no_job(cwd):
    sweep = ("--config-dir", "my", "-m", "task=cartpole_balance", "algo=mine", "hydra.sweep.dir=s", "seed=1")
    (cwd.path / "fail-1").touch()
    assert cwd.run(*sweep)[0] == 1
    (cwd.path / "fail-1").unlink()
    (cwd.path / "my" / "algo" / "mine.yaml").write_text("defaults: [ppo, _self_]\ngamma: 0.9\n")
    code, printed = cwd.run(*sweep)
    assert code == 0, printed
    assert "keeps the config it was sent with; what YAML says now differs: algo.gamma" in printed
    (run,) = cwd.jobs("s").values()
    assert (run / "train.log").read_text().count("gamma 0.5") == 2


def test_a_sweep_with_terms_of_ones_own_asks_nobody_and_one_that_was_downloaded_does(cwd):
    (cwd.path / "own.py").write_text("def term(ctx):\n    return 1.0\n")
    sweep = (*SWEEP, "seed=1", "+task.rewards.mine={_target_: own.term, weight: 1.0}")
    (cwd.path / "fail-1").touch()
    assert cwd.run(*sweep)[0] == 1
    code, printed = cwd.run(*sweep, XDG_CONFIG_HOME=str(cwd.path))  # another user's
    assert code == 1 and "write trust=own" in printed and "Traceback" not in printed
    (cwd.path / "fail-1").unlink()
    code, printed = cwd.run(*sweep, "trust=own", XDG_CONFIG_HOME=str(cwd.path))
    assert code == 0, printed
    assert cwd.run(*sweep)[0] == 0 and set(cwd.trainings("s").values()) == {2}


def test_what_is_drawn_or_follows_from_the_sweep_is_frozen_too(cwd):
    """A seed; the folder's name as the group of wandb."""
    sweep = ("-m", "task=cartpole_balance", "seed=null", "hydra.sweep.dir=s", "logger=wandb")
    assert cwd.run(*sweep)[0] == 0
    (run,) = cwd.jobs("s").values()
    assert OmegaConf.load(run / "config.yaml").logger.wandb.group == "s"
    before = (run / "config.yaml").read_text()
    code, printed = cwd.run(*sweep)
    assert code == 0 and "differs" not in printed and (run / "config.yaml").read_text() == before


def test_a_folder_of_other_overrides_is_refused(cwd):
    subdir = "hydra.sweep.subdir=${hydra.job.num}"
    assert cwd.run(*SWEEP, subdir, "seed=1")[0] == 0
    code, printed = cwd.run(*SWEEP, subdir, "seed=7")
    assert code == 1 and "belongs to other overrides (seed=1 seed=7); choose another hydra.sweep.dir" in printed
    assert "Traceback" not in printed and sum(cwd.trainings("s").values()) == 1


def test_ctrl_c_stops_the_jobs_and_says_how_to_go_on(cwd):
    for seed in (1, 2):
        (cwd.path / f"hold-{seed}").touch()
    process = cwd.start(*SWEEP, "launcher=submitit_local", "seed=1,2")
    runs = [cwd.path / "s" / FIRST, cwd.path / "s" / SECOND]
    begun = [run for run in runs if len(os.sched_getaffinity(0)) > 1 or run is runs[0]]
    wait_for(lambda: all(state(run) == "running" for run in begun))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "to go on: python -m ksim.run -m task=cartpole_balance hydra.sweep.dir=s" in printed
    assert "Traceback" not in printed
    assert all(state(run) == "interrupted" for run in begun)
    for seed in (1, 2):
        (cwd.path / f"hold-{seed}").unlink()
    assert cwd.run(*SWEEP, "launcher=submitit_local", "seed=1,2")[0] == 0
    assert all(state(run) == "completed" for run in runs)


def test_a_dead_launcher_loses_nothing(cwd):
    """Its job goes on; the same command waits for it and does what is missing."""
    (cwd.path / "hold-1").touch()
    one_at_a_time = f"hydra.launcher.cpus_per_task={len(os.sched_getaffinity(0))}"
    process = cwd.start(*SWEEP, "launcher=submitit_local", one_at_a_time, "seed=1,2")
    first = cwd.path / "s" / FIRST
    wait_for(lambda: state(first) == "running")
    process.kill()
    process.wait()
    again = cwd.start(*SWEEP, "launcher=submitit_local", one_at_a_time, "seed=1,2")
    wait_for(lambda: "waiting for it" in (first / "train.log").read_text())
    (cwd.path / "hold-1").unlink()
    printed, _ = again.communicate(timeout=120)
    assert again.returncode == 0, printed
    assert cwd.trainings("s") == {FIRST: 1, SECOND: 1}


def test_cpus_are_shared_out():
    assert _shares([0, 1, 2, 3], 2) == [(0, 1), (2, 3)]
    assert _shares([0, 1, 2], 2) == [(0, 1)]
    assert _shares([4, 5], 8) == [(4, 5)]


def test_a_search_maximizes_the_return(cwd):
    pytest.importorskip("optuna")
    search = ("-m", "task=cartpole_balance", "sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2")
    search = (*search, "hydra.sweep.dir=s", "algo.gamma=interval(0.5,0.9)")
    code, printed = cwd.run(*search)
    assert code == 0, printed
    jobs = cwd.jobs("s")
    assert len(jobs) == 6
    gammas = [OmegaConf.load(run / "config.yaml").algo.gamma for run in jobs.values()]
    assert len(set(gammas)) == 6 and all(0.5 <= gamma <= 0.9 for gamma in gammas)
    best = OmegaConf.load(cwd.path / "s" / "optimization_results.yaml")
    assert best.best_params["algo.gamma"] == max(gammas) and best.best_value == pytest.approx(100 * max(gammas))
    code, printed = cwd.run(*search)  # the same values are drawn, and nothing is trained again
    assert code == 0 and cwd.trainings("s") == dict.fromkeys(jobs, 1)


@pytest.mark.slow
def test_a_small_real_search(real_cwd):
    pytest.importorskip("optuna")
    small = """
    task=cartpole_balance physics=mujoco physics.threads=1 algo.num_envs=16 algo.num_env_states_per_minibatch=32
    algo.num_minibatches=2 algo.actor_hidden=[16] algo.critic_hidden=[16] algo.total_steps=256
    log.interval_iterations=2 eval.episodes=4 eval.video=false eval.interval_steps=null
    """.split()
    code, printed = real_cwd.run(
        *("-m", *small, "sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "hydra.sweep.dir=s"),
        "algo.learning_rate=tag(log, interval(1e-4, 1e-3))",
    )
    assert code == 0, printed
    jobs = real_cwd.jobs("s")
    returns = [
        json.loads((run / "eval" / "final" / "metrics.json").read_text())["summary"]["return"] for run in jobs.values()
    ]
    assert len(returns) == 2 and OmegaConf.load(real_cwd.path / "s" / "optimization_results.yaml").best_value == max(
        returns
    )
