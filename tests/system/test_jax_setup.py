"""JAX's set-up, which happens once a process: in processes of their own."""

import importlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

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


FLAGS = """
import os
from ksim.system import jax_setup
jax_setup.prepare("mjx")
print(os.environ.get("XLA_FLAGS", ""), "|", os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", ""))
import jax
jax.devices()  # XLA itself ends the process where it does not know a flag
"""
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@pytest.fixture(scope="module")
def gpu_plugin(tmp_path_factory):
    """A folder with a plugin of JAX's for GPUs that brings none."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "jax_plugins" / "xla_cuda12").mkdir(parents=True)
    (folder / "jax_plugins" / "xla_cuda12" / "__init__.py").write_text("def initialize(): pass")
    return str(folder)


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ({}, DETERMINISTIC),
        ({"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}, f"--xla_cpu_enable_fast_math=false {DETERMINISTIC}"),
        ({"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"}, "--xla_gpu_deterministic_ops=false"),
        (
            {"XLA_FLAGS": "--xla_gpu_exclude_nondeterministic_ops=true"},
            "--xla_gpu_exclude_nondeterministic_ops=true",
        ),
        ({"JAX_PLATFORMS": "cpu"}, ""),
    ],
)
def test_a_gpu_computes_the_same_bits_every_time_unless_the_user_chose(gpu_plugin, variables, flags):
    """The flag is set where JAX has a plugin for GPUs and may use it; a training takes memory as JAX does."""
    code = f"import sys; sys.path.insert(0, {gpu_plugin!r})" + FLAGS
    assert output(code, **({"JAX_PLATFORMS": ""} | variables)).split("|") == [f"{flags} ", " \n"]


def test_without_a_plugin_for_gpus_no_flag_is_set():
    assert output(FLAGS, JAX_PLATFORMS="", XLA_FLAGS="") == " | \n"


ELSEWHERE = """
import sys
import jax, jax.numpy as jnp, mujoco
from jax._src import xla_bridge
from jax._src.lib import xla_client
# A platform that is not "cpu", as a GPU is not, and computes on the CPU all the same.
xla_bridge.register_backend_factory("other", lambda: xla_client.make_cpu_client(), priority=500)
from ksim.physics import initial_state, make_physics
from ksim.system import jax_setup
if sys.argv[1] == "prepared":
    jax_setup.prepare("mujoco")
elif sys.argv[1] == "late":
    jax.devices()
    jax_setup.prepare("mujoco")
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><body><joint/><geom size='0.1' pos='0 0 1'/></body></worldbody></mujoco>"
)
after = jax.jit(make_physics("mujoco", model, (), 1).step)(initial_state(model, (), 2), {}, jnp.zeros((2, 1, 0)))
print("cpu" in xla_bridge._backends, after.qpos.shape)
"""


def test_c_mujoco_is_called_whatever_platform_is_asked_for():
    """JAX calls back into Python through its CPU backend, which JAX_PLATFORMS=cuda leaves out."""
    without = python(ELSEWHERE, "unprepared", JAX_PLATFORMS="other")
    assert "failed to find a local CPU device" in without.stderr
    assert output(ELSEWHERE, "prepared", JAX_PLATFORMS="other") == "True (2, 1)\n"
    late = python(ELSEWHERE, "late", JAX_PLATFORMS="other")
    assert "KsimError: JAX runs without its CPU backend" in late.stderr
    assert "set JAX_PLATFORMS=other,cpu" in late.stderr


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        ("cuda", "error: JAX finds no device of JAX_PLATFORMS='cuda'; unset it to run on whatever there is"),
        ("cuuda", "error: JAX does not start with JAX_PLATFORMS='cuuda': Unable to initialize backend 'cuuda'"),
    ],
)
def test_a_platform_that_is_not_there_is_one_line(platforms, message):
    code = (
        "from ksim.system.entry import entry; from ksim.system import jax_setup\n"
        "entry(lambda argv: (jax_setup.prepare('auto'), jax_setup.backend()))"
    )
    result = python(code, JAX_PLATFORMS=platforms)
    assert result.returncode == 2 and result.stderr.startswith(message) and result.stderr.count("\n") == 1


MEMORY = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)


def test_what_runs_beside_a_training_takes_memory_as_it_needs_it(monkeypatch):
    """Unless the user has chosen something."""
    for name in MEMORY:
        monkeypatch.setenv(name, "")
    jax_setup.share_the_gpu()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    for chosen in MEMORY:
        for name in MEMORY:
            monkeypatch.setenv(name, "0.5" if name == chosen else "")
        jax_setup.share_the_gpu()
        assert [name for name in MEMORY if os.environ[name]] == [chosen] and os.environ[chosen] == "0.5"


class Shared(Exception):
    pass


@pytest.mark.parametrize(
    ("command", "argument"),
    [("ksim.eval", "run=latest"), ("ksim.export", "run=latest"), ("ksim.bench", "task=cartpole_balance")],
)
def test_commands_beside_a_training_share_the_gpu_first_of_all(command, argument, monkeypatch):
    def share():
        raise Shared

    monkeypatch.setattr(jax_setup, "share_the_gpu", share)
    monkeypatch.setattr(jax_setup, "prepare", pytest.fail)
    monkeypatch.setattr("ksim.policies.onnx.check_installed", lambda: None)
    with pytest.raises(Shared):
        importlib.import_module(command).main([argument])


def test_what_a_device_has_given_is_told(monkeypatch):
    """Of devices that count their memory; CPUs do not."""
    stats = {"bytes_limit": 100, "bytes_in_use": 30, "peak_bytes_in_use": 60, "num_allocs": 7}
    devices = [SimpleNamespace(memory_stats=lambda: stats), SimpleNamespace(memory_stats=lambda: None)]
    monkeypatch.setattr("jax.local_devices", lambda: devices)
    told = {"bytes_limit": 100, "bytes_in_use": 30, "peak_bytes_in_use": 60}
    assert jax_setup.device_memory() == {str(devices[0]): told}
