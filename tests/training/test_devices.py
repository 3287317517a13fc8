"""One training over several devices, and over several processes, is the training that one device makes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from support.runs import assert_same, final_state

from ksim.config.compose import compose
from ksim.errors import ConfigError
from ksim.store import checkpoint, metrics, run_dir, status
from ksim.store.run_dir import RunDir
from ksim.training import placement
from ksim.training.checks import checked
from ksim.training.placement import choose
from ksim.training.resume import resumed_config

ROOT = Path(__file__).parents[2]
TWO = "--xla_force_host_platform_device_count=2"
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
SIZES = "task=cartpole_balance algo.num_envs=24 algo.num_env_states_per_minibatch=48 algo.num_minibatches=2".split()
CHUNK = 16 * 4
# Of an environment that compiles quickly; each chunk is a checkpoint.
TRAINING = f"""
--config-dir my task=bead physics=mjx seed=3 algo.num_envs=16 algo.num_env_states_per_minibatch=32
algo.num_minibatches=2 algo.num_learning_epochs=1 algo.actor_hidden=[8] algo.critic_hidden=[8] eval.episodes=0
log.interval_iterations=1 checkpoint.every_s=1e-6 checkpoint.keep=100000 eval.interval_steps={50 * CHUNK}
eval.interval_episodes=2
""".split()


def started(*argv: str, cache: Path, cwd: Path, **env: str) -> "subprocess.Popen[str]":
    """Python in a process of its own, which compiles quickly."""
    names = ("PJRT_NPROC", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    clean |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu", "KSIM_CACHE_DIR": str(cache)}
    clean |= {"XLA_FLAGS": FAST} | env
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, *argv], cwd=cwd, env=clean, text=True, **pipes)


def several(*argv: str, cache: Path, cwd: Path, count: int = 2) -> list["subprocess.Popen[str]"]:
    """The same command in so many processes, the first of which leads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [started(*argv, cache=cache, cwd=cwd, **common, JAX_PROCESS_ID=str(i)) for i in range(count)]


def ended(*children: "subprocess.Popen[str]", seconds: float = 900) -> list[str]:
    """What processes printed that must not fail."""
    printed = [child.communicate(timeout=seconds)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children), "\n---\n".join(printed)
    return printed


# Which devices


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "physics=mujoco physics.devices=2",
            "physics.devices: must be 1 with physics=mujoco, which runs on CPUs, not 2;",
        ),
        ("physics.devices=0", "physics.devices: must be above 0, not 0"),
        ("physics.devices=all", "physics.devices: must be a whole number or null, not 'all'"),
        (
            "physics=mjx physics.devices=5",
            "algo.num_envs: must be a multiple of 5, so that each device gets as many (physics.devices=5), not 24; 20"
            " or 25 would be",
        ),
        (
            "physics=mjx physics.devices=16 algo.num_envs=48",
            "algo.num_env_states_per_minibatch: must be a multiple of 16",
        ),
    ],
)
def test_a_number_of_devices_that_does_not_fit_is_refused_before_anything_starts(overrides, message):
    overrides = overrides.replace("algo.num_envs=48", "algo.num_envs=48 algo.num_env_states_per_minibatch=72")
    with pytest.raises(ConfigError) as error:
        checked(compose([*SIZES, *overrides.split()]))
    assert str(error.value).startswith(message), error.value


def test_a_training_takes_the_devices_that_it_is_given_or_as_many_as_its_sizes_allow(monkeypatch):
    def number(count: int, *overrides: str) -> int:
        monkeypatch.setattr(jax, "devices", lambda: list(range(count)))
        return len(choose(compose([*SIZES, "physics=mjx", *overrides])))

    assert [number(count) for count in (1, 2, 3, 4, 5, 7, 8, 9)] == [1, 2, 3, 4, 4, 6, 8, 8]
    assert number(8, "physics.devices=2") == 2 and number(8, "physics.devices=1") == 1
    with pytest.raises(ConfigError, match=r"physics\.devices: must be at most 2, as JAX sees no more \(cpu\), not 4"):
        number(2, "physics.devices=4")
    assert len(choose(compose([*SIZES, "physics=mujoco"]))) == 1

    monkeypatch.setattr(placement.processes, "count", lambda: 2)  # then all of them
    assert number(6) == 6
    with pytest.raises(
        ConfigError, match=r"algo\.num_envs: must be a multiple of 5, .* \(2 processes with 5 devices\)"
    ):
        number(5)
    with pytest.raises(ConfigError, match=r"physics\.devices: must be null or 4, all of 2 processes, not 2"):
        number(4, "physics.devices=2")
    with pytest.raises(ConfigError, match=r"physics\.engine: mujoco trains in one process, and here are 2; for more"):
        choose(compose([*SIZES, "physics=mujoco"]))


# What they compute


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Compiled programs, for all processes here."""
    return tmp_path_factory.mktemp("cache")


# An environment that compiles quickly, and MJX.
TASKS = ("bead", "cartpole_balance")


@pytest.fixture(scope="module", params=TASKS)
def task(request) -> str:
    return request.param


def with_task(folder: Path) -> Path:
    (folder / "my" / "task").mkdir(parents=True)
    (folder / "my" / "task" / "bead.yaml").write_text("_target_: support.bead.BeadCfg\n")
    return folder


@pytest.fixture(scope="module")
def updates(tmp_path_factory, cache, task):
    """The first update of a training, and its state after two iterations, by leaf: on one device, and on two."""
    path = with_task(tmp_path_factory.mktemp("updates"))
    argv = ("-m", "support.spread", task, "1", "null")
    (printed,) = ended(started(*argv, cache=cache, cwd=path, XLA_FLAGS=f"{FAST} {TWO}"))
    assert printed.splitlines()[-2:] == ["1 devices", "2 devices"]
    return [dict(np.load(path / f"{devices}.npz")) for devices in ("1", "null")]


def assert_same_training(found, one):
    """The first state bit by bit, the first rollout, losses and gradients to 1e-5, two iterations to 1e-4."""
    assert found.keys() == one.keys()
    for part in ("first", "rollout", "losses", "grads", "trained", "metrics"):
        assert sum(name.startswith(f"['{part}']") for name in found) > 2  # or nothing is compared
    for name, expected in one.items():
        x, y = found[name].astype(float), expected.astype(float)
        # Rounding grows from iteration to iteration.
        tolerance = 0.0 if name.startswith("['first']") else 1e-4 if name.startswith(("['tr", "['m")) else 1e-5
        scale = max(np.abs(y).max(initial=0.0), 1.0)
        np.testing.assert_allclose(x / scale, y / scale, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.training
def test_two_devices_compute_what_one_computes(updates):
    one, two = updates
    assert_same_training(two, one)


@pytest.mark.training
def test_two_processes_compute_what_one_computes(tmp_path, cache, task, updates):
    printed = ended(*several("-m", "support.spread", task, "null", cache=cache, cwd=with_task(tmp_path)))
    assert "2 devices" in printed[0].splitlines() and "devices" not in printed[1]  # one of them writes
    found, (one, two) = dict(np.load(tmp_path / "null.npz")), updates
    assert_same_training(found, one)
    assert all(found[name].tobytes() == two[name].tobytes() for name in two)  # two processes are two devices


# Stopped, killed, resumed


def the_run(folder: Path) -> RunDir:
    return run_dir.open("latest", folder / "runs")


def when_trained_for(children: list["subprocess.Popen[str]"], folder: Path, chunks: int) -> None:
    """Return once the newest checkpoint is so far."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        if any(child.poll() is not None for child in children):
            pytest.fail("\n---\n".join(child.communicate()[0] for child in children))
        found = list((folder / "runs").glob("*/2*/checkpoints/*/manifest.json"))
        if any(int(path.parent.name) >= chunks * CHUNK for path in found):
            return
        time.sleep(0.05)
    pytest.fail("no checkpoint")


@pytest.mark.training
def test_two_processes_stop_together_and_resume_as_if_they_had_not(tmp_path, cache):
    """One is sent a signal, one is killed; the last steps are those of one process with two devices."""
    with_task(tmp_path)

    def train(*argv: str) -> list["subprocess.Popen[str]"]:
        return several("-m", "ksim.run", *argv, cache=cache, cwd=tmp_path)

    long = "algo.total_steps=100_000_000"
    children = train(*TRAINING, long)
    when_trained_for(children, tmp_path, 3)
    children[1].send_signal(signal.SIGTERM)  # the first one hears of it, and saves
    printed = [child.communicate(timeout=600)[0] for child in children]
    run = the_run(tmp_path)
    assert children[0].returncode == 143 and children[1].returncode == 0, printed
    before = status.read(run.status_path)
    assert before is not None and before.state == "interrupted"
    steps = [line["step"] for line in metrics.read(run.metrics_path)]
    assert steps[-1] == before.step == checkpoint.steps(run.checkpoints)[-1]
    assert len(list((tmp_path / "runs" / "bead").glob("2*"))) == 1  # one process makes files

    chunks = before.step // CHUNK
    children = train(f"resume={run.path}")
    when_trained_for(children, tmp_path, chunks + 3)
    children[1].kill()
    children[0].communicate(timeout=600)  # it ends by itself
    assert children[0].returncode != 0
    found = status.read(run.status_path)
    assert found is not None and (found.state == "failed" or found.dead)

    chunks = checkpoint.steps(run.checkpoints)[-1] // CHUNK
    ended(*train(f"resume={run.path}", f"algo.total_steps={(chunks + 2) * CHUNK}"))
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.step) == ("completed", (chunks + 2) * CHUNK)
    steps = [line["step"] for line in metrics.read(run.metrics_path)]
    assert steps == list(range(CHUNK, (chunks + 2) * CHUNK + 1, CHUNK))  # nothing is lost, nothing twice
    assert run.log_path.read_text().count("one training over 2 devices of 2 processes (cpu)") == 3

    undisturbed = with_task(tmp_path / "undisturbed")
    argv = ("-m", "ksim.run", *TRAINING, f"algo.total_steps={(chunks + 2) * CHUNK}")
    ended(started(*argv, cache=cache, cwd=undisturbed, XLA_FLAGS=f"{FAST} {TWO}"))
    assert_same(run, the_run(undisturbed))


@pytest.mark.training
def test_a_training_goes_on_with_another_number_of_devices_from_the_very_same_state(tmp_path, cache):
    with_task(tmp_path)
    first = ("-m", "ksim.run", *TRAINING, f"algo.total_steps={2 * CHUNK}")
    profile = {"JIT_PROFILE": "1"}
    (printed,) = ended(started(*first, cache=cache, cwd=tmp_path, XLA_FLAGS=f"{FAST} {TWO}", **profile))
    (row,) = [line for line in printed.splitlines() if "train_chunk" in line]
    assert row.replace("│", " ").split()[1] == "1", printed  # traced, and compiled, once
    run = the_run(tmp_path)
    saved = final_state(run)
    resumed_config(run, ["physics.devices=1"])  # may change
    code = f"""
import sys
from ksim.config.compose import load_frozen
from ksim.store.run_dir import RunDir
from ksim.training.experiment import build
from ksim.training.placement import Placement
from ksim.training.state import restore
import numpy as np
from pathlib import Path
from support.spread import by_leaf
run = RunDir(Path({str(run.path)!r}))
experiment = build(load_frozen(run.config_path))
found, step = restore(experiment, run)
place = Placement(experiment)
np.savez("one.npz", **by_leaf(place.gather(place.put(found))))
print(len(place.devices), step)
"""
    (printed,) = ended(started("-c", code, cache=cache, cwd=tmp_path))
    assert printed.split()[-2:] == ["1", str(2 * CHUNK)]
    taken_up = np.load(tmp_path / "one.npz")
    assert len(taken_up.files) == len(saved) > 20
    assert {x.tobytes() for x in saved.values()} == {taken_up[name].tobytes() for name in taken_up.files}
    (printed,) = ended(
        started("-m", "ksim.run", f"resume={run.path}", f"algo.total_steps={3 * CHUNK}", cache=cache, cwd=tmp_path)
    )
    assert f"resuming at {2 * CHUNK}" in printed and "one training over" not in printed
    assert [line["step"] for line in metrics.read(run.metrics_path)] == [CHUNK, 2 * CHUNK, 3 * CHUNK]
