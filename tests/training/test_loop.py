"""Trainings from end to end: what a run directory holds, and what happens when something goes wrong."""

import contextlib
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import imageio.v3 as imageio
import jax
import numpy as np
import pytest
import yaml

from ksim import eval as ksim_eval
from ksim.config.compose import compose, load_frozen
from ksim.store import checkpoint, metrics, run_dir, status
from ksim.store.run_dir import RunDir
from ksim.system import trust
from ksim.training.experiment import build
from ksim.training.loop import train
from ksim.viz import plots, render
from ksim.viz.backend import RenderError, find_backend

REPO = Path(__file__).resolve().parent.parent.parent
SMALL = """
algo.num_envs=16 algo.num_env_states_per_minibatch=32 algo.num_minibatches=2 algo.num_learning_epochs=2
algo.actor_hidden=[16] algo.critic_hidden=[16] algo.total_steps=256 log.interval_iterations=2 eval.episodes=4
physics.threads=1
""".split()


def start(cwd: Path, *argv: str, module: str = "ksim.run", **env: str) -> subprocess.Popen[str]:
    """`python -m ksim.run`, as a user gives it."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPO), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ksim_run(cwd: Path, *argv: str, module: str = "ksim.run", **env: str) -> tuple[int, str, str]:
    """The same, with what it ends with: exit code, stdout, stderr."""
    process = start(cwd, *argv, module=module, **env)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def train_here(tmp_path: Path, *overrides: str) -> RunDir:
    """A training in this process."""
    cfg = compose([*SMALL, f"runs_dir={tmp_path / 'runs'}", *overrides])
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    train(cfg, run)
    return run


# K-Bot. ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kbot(tmp_path_factory) -> tuple[RunDir, str]:
    """A small training of the main job with a seed to be drawn, and what it printed."""
    cwd = tmp_path_factory.mktemp("kbot")
    begin = time.time()
    code, out, err = ksim_run(
        cwd, "task=kbot_standing", "physics=mujoco", "seed=null", *SMALL, "task.episode_length_s=0.6"
    )
    assert code == 0, err
    (run,) = (p for p in (cwd / "runs" / "kbot_standing").iterdir() if p.name != "latest")
    assert begin - 1 < time.mktime(time.strptime(run.name, "%Y-%m-%d_%H-%M-%S"))
    assert sorted(p.name for p in cwd.iterdir()) == ["runs"]
    return RunDir(run), out


def test_a_run_directory_holds_everything(kbot):
    run, _ = kbot
    names = {p.name for p in run.path.iterdir()}
    wanted = "config.yaml status.json provenance.json metrics.jsonl checkpoints plots eval train.log .hydra".split()
    assert set(wanted) <= names
    assert (run.path.parent / "latest").resolve() == run.path.resolve()
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.step, found.error) == ("completed", 256, None)


def test_the_frozen_config_holds_the_drawn_seed_and_the_engine(kbot):
    run, _ = kbot
    cfg = load_frozen(run.config_path)
    assert cfg.seed is not None and cfg.task.seed == cfg.seed
    assert cfg.physics.engine == "mujoco" and cfg.algo.num_envs == 16
    provenance = json.loads(run.provenance_path.read_text())
    assert provenance["seed"] == cfg.seed
    assert provenance["engine"]["engine"] == "mujoco" and "C MuJoCo" in provenance["engine"]["reason"]
    assert provenance["threads"] == 1 and provenance["devices"]
    assert {"jax", "mujoco", "equinox"} <= {name for name, version in provenance["packages"].items() if version}


def test_the_first_lines_name_the_engine_and_why(kbot):
    run, out = kbot
    assert re.match(r"physics: C MuJoCo on 1 CPU thread, as physics=mujoco asks\nrun directory: ", out)
    log = run.log_path.read_text().splitlines()
    assert "physics: C MuJoCo on 1 CPU thread" in log[0] and str(run.path) in log[1]


def test_the_terms_are_shown_before_the_training(kbot):
    run, out = kbot
    table = out[: out.index("compiled the training")]
    cfg = load_frozen(run.config_path)
    for kind in (cfg.task.rewards, cfg.task.terminations, cfg.task.events, cfg.task.metrics, cfg.task.actions):
        assert all(name in table for name in kind)
    assert "rewards" in run.log_path.read_text()


def test_every_metric_of_a_training_is_in_its_lines_and_in_a_plot(kbot):
    run, _ = kbot
    lines = metrics.read(run.metrics_path)
    assert [line["step"] for line in lines] == [128, 256]
    cfg = load_frozen(run.config_path)
    for line in lines:
        assert {"return", "episodes", "episode_length_s", "falls", "env_steps_per_s", "wall_time_s"} <= set(line)
        assert {f"reward/{name}" for name in cfg.task.rewards} <= set(line)
        assert {f"termination/{name}" for name in cfg.task.terminations} <= set(line)
        assert line["ppo/first_ratio_error"] < 1e-5
    drawn = "|".join(panel.key for panels in plots.FIGURES.values() for panel in panels)
    families = tuple(prefix for _, prefix, _, _ in plots.FAMILIES)
    not_drawn = [name for name in lines[-1] if not re.fullmatch(drawn, name) and not name.startswith(families)]
    assert sorted(not_drawn) == ["episodes", "step", "wall_time_s"]
    assert {"learning.png", "optimization.png", "rewards.png"} <= {p.name for p in run.plots.iterdir()}


def test_the_checkpoint_holds_the_policy_and_the_whole_state(kbot):
    run, _ = kbot
    assert checkpoint.steps(run.checkpoints) == [256]
    experiment = build(load_frozen(run.config_path))
    like = {
        "train_state": eqx.filter_eval_shape(experiment.algorithm.init, experiment.env, jax.random.key(0)),
    }
    like["policy"] = experiment.algorithm.policy(like["train_state"])
    found = checkpoint.load(run.checkpoints / "256", like)
    state = found.trees["train_state"]
    assert int(state.num_iterations) == 4 and state.obs["actor"].shape[0] == 16
    policy = found.trees["policy"]
    np.testing.assert_array_equal(policy.log_std, state.model.net.log_std)
    assert float(policy.normalizer.count) == 256
    assert found.meta["task"] == "kbot_standing" and found.meta["rewards"] == list(experiment.env.rewards.terms)


def test_the_final_policy_is_evaluated_and_filmed(kbot):
    run, out = kbot
    final = run.eval / "final"
    found = json.loads((final / "metrics.json").read_text())
    assert found["step"] == 256 and found["engine"]["engine"] == "mujoco"
    assert found["summary"]["episodes"] == 4 and 0 < found["summary"]["episode_length_s"] <= 0.6
    assert f"return {found['summary']['return']:.2f}" in out
    assert {"joint_positions.png", "actions.png"} <= {p.name for p in final.iterdir()}


def test_the_video_shows_the_robot(kbot):
    try:
        find_backend()
    except RenderError as error:
        pytest.skip(f"this machine cannot render: {error}")
    run, _ = kbot
    frames = imageio.imread(run.eval / "final" / "video.mp4")
    cfg = load_frozen(run.config_path)
    assert frames.shape[1:] == (cfg.task.viewer.height, cfg.task.viewer.width, 3) and len(frames) >= 5
    assert frames.std() > 5


@pytest.mark.training
def test_the_kbot_trains_and_is_evaluated_on_mjx_too(tmp_path):
    # Compiling takes most of the time here, so it is told to be quick. The number of threads is left to ksim.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    env = {"XLA_FLAGS": flags, "PJRT_NPROC": ""}
    short = ("eval.episodes=0", "task.episode_length_s=0.2")
    code, out, err = ksim_run(tmp_path, "task=kbot_standing", "physics=mjx", *SMALL, *short, **env)
    assert code == 0, err
    assert out.startswith("physics: MJX on JAX's cpu backend, as physics=mjx asks\n")
    run = run_dir.open(tmp_path / "runs" / "kbot_standing" / "latest")
    assert load_frozen(run.config_path).physics.engine == "mjx"
    lines = metrics.read(run.metrics_path)
    assert [line["step"] for line in lines] == [128, 256]
    assert all(np.isfinite(line["ppo/value_loss"]) and not line.get("nan_guard") for line in lines)
    code, out, err = ksim_run(tmp_path, "run=latest", "episodes=4", "video=false", module="ksim.eval", **env)
    assert code == 0, err
    (folder,) = run.eval.iterdir()
    found = json.loads((folder / "metrics.json").read_text())
    assert found["engine"]["engine"] == "mjx" and found["step"] == 256
    assert found["summary"]["episode_length_s"] == pytest.approx(0.2)


# What goes wrong. -----------------------------------------------------------------------------------------------------

OWN_TERMS = """
import jax
import jax.numpy as jnp

def breaks_when_traced(ctx):
    raise ValueError("no such thing")

def _late(x):
    raise RuntimeError("out of luck")

def breaks_in_the_loop(ctx):
    return jax.pure_callback(_late, jax.ShapeDtypeStruct((), ctx.qpos.dtype), ctx.qpos[0], vmap_method="sequential")
"""


def test_a_term_that_breaks_when_it_is_traced_is_one_message_and_leaves_nothing(tmp_path):
    (tmp_path / "own.py").write_text(OWN_TERMS)
    new = "+task.rewards.new={_target_: own.breaks_when_traced, weight: 1.0}"
    code, _, err = ksim_run(tmp_path, "task=cartpole_balance", "physics=mujoco", *SMALL, new)
    assert code == 2 and err.endswith("error: task.rewards.new: own.py:6: ValueError: no such thing\n")
    assert "Traceback" not in err and not list(tmp_path.glob("runs/*"))


def test_a_training_that_fails_says_so_everywhere(tmp_path):
    (tmp_path / "own.py").write_text(OWN_TERMS)
    new, reason = "+task.rewards.new={_target_: own.breaks_in_the_loop, weight: 1.0}", "out of luck"
    code, _, err = ksim_run(tmp_path, "task=cartpole_balance", "physics=mujoco", *SMALL, new)
    assert code == 1 and reason in err
    run = RunDir((tmp_path / "runs" / "cartpole_balance" / "latest").resolve())
    found = status.read(run.status_path)
    assert found is not None and found.state == "failed" and reason in (found.error or "")
    log = run.log_path.read_text()
    assert "the training failed\nTraceback (most recent call last):" in log and reason in log and "own.py" in log


def test_what_is_not_finite_is_told_once_a_term(tmp_path, caplog):
    """By its place in the task, with how often in that log line; the log line has as many."""
    (tmp_path / "poles.py").write_text(
        "import jax.numpy as jnp\n\n"
        "def root(ctx):\n    return jnp.sqrt(ctx.joint_pos[0])\n\n"
        "def fine(ctx):\n    return ctx.joint_pos[0]\n"
    )
    new = [
        *(f"+task.rewards.{name}={{_target_: poles.{name}, weight: 1.0}}" for name in ("root", "fine")),
        "+task.metrics.root={_target_: poles.root}",
        "+task.observations.actor.terms.root={_target_: poles.root}",
    ]
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, logger="ksim.training.loop"):
        patch.syspath_prepend(tmp_path)
        run = train_here(tmp_path, "task=cartpole_balance", "physics=mujoco", "eval.episodes=0", *new)
    paths = [f"task.{place}.root" for place in ("rewards", "metrics", "observations.actor.terms")]
    assert "poles.root" in trust.read(run.config_path)  # the user's own run: nobody asks for trust=poles
    lines = metrics.read(run.metrics_path)
    assert len(lines) == 2
    for line in lines:
        counts = {path: line[f"not_finite/{path}"] for path in paths}
        assert 0 < counts[paths[0]] == counts[paths[1]] < 128 and 0 < counts[paths[2]] < 128
        assert sum(name.startswith("not_finite/") for name in line) == 3
        assert all(
            np.isfinite(x) for name, x in line.items() if name.startswith(("reward/", "metric/")) and x is not None
        )
    for path in paths:
        first = int(lines[0][f"not_finite/{path}"])
        told = [record.getMessage() for record in caplog.records if path in record.getMessage()]
        assert len(told) == 1
        assert told[0].startswith(
            f"{path} was not finite in {first} of the last 128 env steps and counted as 0 there; "
        )
    assert "rewards.fine" not in caplog.text


def test_a_mistake_that_only_building_finds_is_one_line(tmp_path):
    mistake = "task.actions.force.joints=slidr"
    code, out, err = ksim_run(tmp_path, "task=cartpole_balance", "physics=mujoco", *SMALL, mistake)
    assert code == 2
    assert re.fullmatch(r"error: task\.actions\.force: no actuated joint matches 'slidr'.*\n", err)
    assert "Traceback" not in out and not list(tmp_path.glob("runs/*"))


def test_a_missing_renderer_ends_no_training(tmp_path, monkeypatch, caplog):
    def nothing() -> None:
        raise RenderError("Cannot render: no OpenGL backend works here.")

    monkeypatch.setattr(render, "find_backend", nothing)
    monkeypatch.setattr(render, "_warned", False)
    with caplog.at_level(logging.INFO):
        run = train_here(tmp_path, "task=cartpole_balance", "physics=mujoco", "task.episode_length_s=0.5")
    found = status.read(run.status_path)
    assert found is not None and found.state == "completed"
    assert "metrics.json" in (names := {p.name for p in (run.eval / "final").iterdir()}) and "video.mp4" not in names
    assert "no OpenGL backend works here" in caplog.text
    assert "numbers, plots: " in caplog.text


def test_a_killed_training_leaves_a_run_that_can_be_evaluated(tmp_path, capsys):
    frequent = ["checkpoint.every_s=0.001", "checkpoint.keep=3", "algo.total_steps=100_000_000"]
    process = start(tmp_path, "task=cartpole_balance", "physics=mujoco", *SMALL, *frequent)
    try:
        checkpoints = Path()
        deadline = time.monotonic() + 300
        while not checkpoint.steps(checkpoints) or checkpoint.steps(checkpoints)[-1] < 1280:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            with contextlib.suppress(StopIteration):
                checkpoints = next((tmp_path / "runs").glob("cartpole_balance/2*")) / "checkpoints"
            time.sleep(0.02)
        if (tmp_path / "runs").exists():  # one that still runs can be evaluated as well
            ksim_eval.main([f"run={checkpoints.parent}", "episodes=2", "video=false", "task.episode_length_s=0.2"])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    run = RunDir(checkpoints.parent)
    found = status.read(run.status_path)
    assert found is not None and found.state == "running" and found.dead
    ksim_eval.main([f"run={run.path}", "episodes=2", "video=false", "task.episode_length_s=0.2"])
    last = max(json.loads(path.read_text())["step"] for path in run.eval.glob("2*/metrics.json"))
    assert last in checkpoint.steps(run.checkpoints) and len(list(run.eval.iterdir())) == 2
    assert f"checkpoint of step {last:,}" in capsys.readouterr().out
    lines = metrics.read(run.metrics_path)
    assert last in [line["step"] for line in lines]


# Learning. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("engine", "limit_s"), [("mujoco", 60), pytest.param("mjx", 300, marks=pytest.mark.training)])
def test_the_cart_pole_is_learned_by_two_cores_in_time(tmp_path, engine, limit_s):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, _, err = ksim_run(tmp_path, "task=cartpole_balance", f"physics={engine}", "eval.episodes=0")
    assert code == 0, err
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = run_dir.open(tmp_path / "runs" / "cartpole_balance" / "latest")
    ksim_eval.main([f"run={run.path}", "video=false", "seed=1"])
    (folder,) = run.eval.iterdir()
    summary = json.loads((folder / "metrics.json").read_text())["summary"]
    cfg = load_frozen(run.config_path)
    best = sum(max(term["weight"], 0.0) for term in cfg.task.rewards.values()) * cfg.task.episode_length_s
    assert best == pytest.approx(10.0)
    assert summary["episodes"] == 256 and summary["return"] >= 0.95 * best
    # Processor time, compilation included, because other programs may share the cores.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * limit_s


def test_the_seed_decides_the_numbers(tmp_path):
    ends = []
    for seed in (3, 3, 4):
        run = train_here(tmp_path, "task=cartpole_balance", "physics=mujoco", "eval.episodes=0", f"seed={seed}")
        assert yaml.safe_load(run.config_path.read_text())["seed"] == seed
        ends.append(checkpoint.load_arrays(run.checkpoints / "256", "train_state"))
    same, other = (
        all(np.array_equal(_plain(ends[0][name]), _plain(end[name])) for name in ends[0]) for end in ends[1:]
    )
    assert same and not other


def _plain(x):
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
