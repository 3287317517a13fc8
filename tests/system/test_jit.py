"""What compiled, why again, and how long it ran; a training that compiles something again says so."""

import logging
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from support.child import output

from ksim.system import jit as module
from ksim.system.jit import changes, jit, warning_of_recompiles

SMALL = """
task=cartpole_balance physics=mujoco physics.threads=1 algo.num_envs=16 algo.num_env_states_per_minibatch=32
algo.num_minibatches=2 algo.num_learning_epochs=1 algo.actor_hidden=[8] algo.critic_hidden=[8] algo.total_steps=256
log.interval_iterations=2 task.episode_length_s=0.4 eval.video=false
""".split()


def double(x, factor=2.0):
    return {name: factor * value for name, value in x.items()}


def test_a_training_warns_of_what_compiles_again_with_what_has_changed(caplog):
    function = jit(double)
    function({"a": jnp.ones(3)})
    with caplog.at_level(logging.WARNING), warning_of_recompiles():
        function({"a": jnp.zeros(3)})
        jit(double)({"a": jnp.zeros(3)})  # for the first time
        assert not caplog.records
        function({"a": jnp.ones(4, int), "b": jnp.ones(3)})
    (record,) = caplog.records
    assert record.message == (
        "double compiles again during the training: x.a: float32[3] -> int32[4], x.b: nothing -> float32[3]"
    )
    function({"a": jnp.ones(5)})  # after the training
    assert len(caplog.records) == 1


def test_what_others_compile_again_is_told_where_it_takes_long(caplog, monkeypatch):
    monkeypatch.setattr(module, "_LONG_S", 0.0)

    def foreign(x):
        return jnp.sin(x)

    with caplog.at_level(logging.WARNING), warning_of_recompiles():
        jax.jit(foreign)(jnp.ones(3))
        assert not any("foreign" in record.message for record in caplog.records)
        jax.jit(foreign)(jnp.ones(4))
    assert any(re.match(r"foreign compiled again during the training, in ", r.message) for r in caplog.records)


def test_what_changed_is_listed_up_to_a_few():
    assert changes({"x": "f32[1]"}, {"x": "f32[1]"}) == "with the same arguments, as the function was made anew"
    many = {f"x{i}": "f32[1]" for i in range(6)}
    text = changes(many, dict.fromkeys(many, "f32[2]"))
    assert text.startswith("x0: f32[1] -> f32[2], x1: ") and text.endswith("x3: f32[1] -> f32[2] and 2 more")


def test_it_is_jax_jit_where_nobody_asks():
    assert type(jit(partial(double, factor=3.0))) is type(jax.jit(double))


def test_what_donates_its_arguments_runs_inside_others_and_takes_what_is_no_array():
    """Under the profile, too."""
    printed = output(
        """
import jax, jax.numpy as jnp
from ksim.system.jit import jit, show_profile
from rich.console import Console
import sys
inner = jit(lambda x, kind: x + 1, name="inner", filtered=True)
outer = jit(lambda x: inner(x, "a") * 2, name="outer", donate_argnums=0)
x = jnp.zeros(3)
assert (outer(x) == 2).all() and x.is_deleted()
assert (inner(jnp.zeros(3), "a") == 1).all() and (inner(jnp.zeros(3), "b") == 1).all()
for _ in range(3):
    outer(jnp.zeros(3))
show_profile(Console(file=sys.stdout, width=200))
""",
        JIT_PROFILE="1",
    )
    cells = {
        row[0]: row[1:] for row in ([c.strip() for c in line.split("│")[1:-1]] for line in printed.splitlines()) if row
    }
    assert cells["outer"][0] == "1" and cells["outer"][3] == "4"
    assert cells["inner"][3] == "2" and "kind: 'a' -> 'b'" in printed


@pytest.mark.slow
def test_a_run_that_compiles_twice_shows_what_and_why(tmp_path):
    """Evaluations of 2 episodes during the training, and one of 4 at its end."""
    env = {**os.environ, "JIT_PROFILE": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "160"}
    command = [
        sys.executable,
        "-m",
        "ksim.run",
        *SMALL,
        "eval.interval_steps=128",
        "eval.interval_episodes=2",
        "eval.episodes=4",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stderr.splitlines() if "│" in line]
    table = {row[0]: row[1:] for row in rows}
    assert {"init", "train_chunk", "evaluate"} <= set(table)
    traces, compile_s, first_s, calls, run_s, median_ms = table["train_chunk"]
    assert (traces, calls) == ("1", "2") and float(compile_s) > 0.1
    assert 0 < float(run_s) < float(compile_s) and float(first_s) > 0 and float(median_ms) > 0
    assert table["evaluate"][0] == "2" and table["evaluate"][3] == "3"  # two during the training
    assert "evaluate compiled again: num_envs: 2 -> 4" in done.stderr
    assert "compiles again during" not in done.stdout + done.stderr
