"""Jobs of a sweep in one program: as a user starts them, and what does not fit into one."""

import os
import signal
import time

import pytest

from ksim.config import compose
from ksim.errors import ConfigError, KsimError
from ksim.store import checkpoint, metrics, status
from ksim.store.run_dir import RunDir
from ksim.sweep import packed
from ksim.sweep.packed import PackedJobs
from ksim.sweep.preflight import preflight
from ksim.training import pack

SMALL = """
task=cartpole_balance physics=mujoco physics.threads=1 algo.num_envs=16 algo.num_env_states_per_minibatch=32
algo.num_minibatches=2 algo.num_learning_epochs=1 algo.actor_hidden=[8] algo.critic_hidden=[8]
log.interval_iterations=2 task.episode_length_s=0.4 eval.interval_steps=null eval.episodes=2 eval.video=false
""".split()


def frozen(folder, *overrides) -> RunDir:
    """A job's run directory, not begun."""
    run = RunDir(folder)
    run.path.mkdir(parents=True)
    run.config_path.write_text(compose.freeze(compose.compose([*SMALL, *overrides])))
    return run


@pytest.fixture
def trained(monkeypatch):
    """What would train, pack by pack, and nothing does."""
    found: list[list[str]] = []
    monkeypatch.setattr(
        pack, "train_pack", lambda population, runs, stop: found.append([run.path.name for run in runs])
    )
    monkeypatch.setattr(packed, "train", lambda run, stop: found.append([run.path.name]))
    return found


def test_a_number_that_cannot_be_traced_makes_a_program_for_each_of_its_values(tmp_path, trained):
    jobs = {"a": ("seed=1", 5.0), "b": ("seed=1", 10.0), "c": ("seed=2", 5.0), "d": ("algo.gamma=0.9", 5.0)}
    runs = [frozen(tmp_path / n, seed, f"task.actions.force.scale={s}") for n, (seed, s) in jobs.items()]
    PackedJobs(tuple(run.path for run in runs))()
    assert trained == [["a", "c", "d"], ["b"]]
    for run in runs:
        assert "task.actions.force.scale cannot differ within one program: " in run.log_path.read_text()


def test_what_is_completed_stays_as_it_is(tmp_path, trained):
    runs = [frozen(tmp_path / name, f"seed={seed}") for seed, name in enumerate("abc")]
    status.StatusFile(runs[1].status_path).end("completed", 128)
    PackedJobs(tuple(run.path for run in runs))()
    assert trained == [["a", "c"]]


def test_jobs_that_cannot_begin_say_so_each(tmp_path, trained):
    runs = [frozen(tmp_path / name) for name in "ab"]
    runs[0].config_path.write_text("nonsense: [")
    with pytest.raises(KsimError):
        PackedJobs(tuple(run.path for run in runs))()
    assert trained == [] and {status.read(run.status_path).state for run in runs} == {"failed"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hydra.launcher.jobs_per_pack=0", r"hydra\.launcher\.jobs_per_pack: must be above 0, not 0"),
        ("+hydra.launcher.job_per_pack=2", r"hydra\.launcher\.job_per_pack: .*did you mean 'jobs_per_pack'"),
    ],
)
def test_mistakes_are_one_line(given, message):
    with pytest.raises(ConfigError, match=message):
        preflight(["-m", "launcher=packed", "task=cartpole_balance", given, "seed=1,2"])


@pytest.mark.slow
def test_a_pack_that_is_killed_loses_nothing(real_cwd):
    """It goes on from its checkpoints, as a pack."""
    sweep = ("-m", *SMALL, "launcher=packed", "hydra.sweep.dir=s", "seed=1,2")
    sweep = (*sweep, "algo.total_steps=3_840", "checkpoint.every_s=0.0001")
    process = real_cwd.start(*sweep)
    deadline = time.monotonic() + 240
    while not any(checkpoint.steps(RunDir(path).checkpoints) for path in _jobs(real_cwd)):
        assert time.monotonic() < deadline and process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, printed = real_cwd.run(*sweep)
    assert code == 0, printed
    assert "side by side: 0_seed=1, 1_seed=2" in printed
    resumed = [(path / "train.log").read_text().count("resuming at") for path in _jobs(real_cwd)]
    assert max(resumed) == 1
    for path in _jobs(real_cwd):
        assert [line["step"] for line in metrics.read(path / "metrics.jsonl")] == list(range(128, 3_841, 128))
        assert status.read(path / "status.json").state == "completed"


def _jobs(cwd):
    return list(cwd.jobs("s").values()) if (cwd.path / "s").exists() else []
