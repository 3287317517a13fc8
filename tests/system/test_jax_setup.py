"""JAX's set-up, which happens once a process: in processes of their own."""

import json
import os
from pathlib import Path

import pytest
from support.child import output, python

from ksim.system import jax_setup

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks are Linux's")

THREADS = """
import json, os, sys
cpus, backend_first = json.loads(sys.argv[1])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])
os.cpu_count = lambda: 64  # what the machine has is not what the process may use
import jax.numpy as jnp
from ksim.system import jax_setup
if backend_first:
    jnp.zeros(1).block_until_ready()
jax_setup.avoid_cpu_hang()
jnp.zeros(1).block_until_ready()
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(json.dumps([os.environ.get("PJRT_NPROC"), names.count("tf_XLAEigen")]))
"""


@linux
@pytest.mark.parametrize(
    ("variables", "set_to", "pool"),
    [
        ({}, "8", 8),  # one CPU
        ({"PJRT_NPROC": "2"}, "8", 8),
        ({"PJRT_NPROC": "9"}, "9", 9),  # enough already
        ({"NPROC": "10"}, None, 10),  # XLA's other variable
    ],
)
def test_xla_gets_enough_threads(variables, set_to, pool):
    """MJX can hang on few threads: XLA's pool has 8 at least, whatever the affinity mask and the variables say."""
    assert json.loads(output(THREADS, "[1, false]", **variables)) == [set_to, pool]


@linux
def test_a_backend_with_few_threads_is_refused():
    """Where JAX runs already, nothing can be set any more: the message says what to do; enough threads are fine."""
    result = python(THREADS, "[1, true]")
    assert result.returncode != 0
    assert "KsimError: MJX can hang on JAX's CPU backend with 1 threads" in result.stderr
    assert "PJRT_NPROC=8" in result.stderr
    assert json.loads(output(THREADS, "[1, true]", NPROC="8")) == [None, 8]


COMPILE = """
import jax, jax.numpy as jnp, mujoco
from jax import monitoring
from ksim.system import jax_setup
jax_setup.use_compile_cache()
from ksim.physics import initial_state, make_physics
hits = []
monitoring.register_event_listener(lambda name, **kwargs: hits.append(name) if name.endswith("cache_hits") else None)
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><body><joint/><geom size='0.1' pos='0 0 1'/></body></worldbody></mujoco>"
)
jax.jit(make_physics("mjx", model, ()).step)(initial_state(model, (), 2), {}, jnp.zeros((2, 1, 0)))
print(len(hits))
"""


def test_a_second_process_compiles_nothing_anew(tmp_path):
    """A program of MJX lands under KSIM_CACHE_DIR, and the next process takes it from there."""
    settings = {"KSIM_CACHE_DIR": str(tmp_path), "PJRT_NPROC": "8"}
    assert output(COMPILE, **settings).strip() == "0"
    files = sorted(path for path in tmp_path.rglob("*") if path.name.endswith("-cache"))
    assert files
    assert int(output(COMPILE, **settings)) >= 1
    assert sorted(path for path in tmp_path.rglob("*") if path.name.endswith("-cache")) == files


def test_where_compiled_programs_are_kept(monkeypatch, tmp_path):
    """KSIM_CACHE_DIR, else XDG_CACHE_HOME, else ~/.cache; another folder for other flags of XLA."""
    monkeypatch.setenv("KSIM_CACHE_DIR", str(tmp_path / "mine"))
    first = jax_setup.compile_cache_dir()
    assert first.is_relative_to(tmp_path / "mine")
    assert jax_setup.compile_cache_dir() == first
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert jax_setup.compile_cache_dir() != first
    monkeypatch.delenv("KSIM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert jax_setup.compile_cache_dir().is_relative_to(tmp_path / "xdg" / "ksim")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert jax_setup.compile_cache_dir().is_relative_to(tmp_path / "home" / ".cache" / "ksim")


def test_the_users_own_choice_of_cache_wins(monkeypatch):
    set_to = {}
    monkeypatch.setattr("jax.config.update", set_to.__setitem__)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere")
    jax_setup.use_compile_cache()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    jax_setup.use_compile_cache()
    assert set_to == {}
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE")
    jax_setup.use_compile_cache()
    assert set_to["jax_compilation_cache_dir"] == str(jax_setup.compile_cache_dir())
