"""Settings and tasks that the whole test suite shares."""

import copy
import os

# Both engines run in this process, and MJX can hang in JAX's CPU backend with fewer threads; before JAX starts.
os.environ["PJRT_NPROC"] = "8"

import jax
import pytest
from support.selection import pytest_collection_modifyitems  # noqa: F401

from ksim.config.compose import compose
from ksim.config.schema import Config
from ksim.system import jax_setup
from ksim.viz.backend import RenderError, find_backend

jax_setup.use_compile_cache()

SMALL = [
    "algo.num_envs=8",
    "algo.num_env_states_per_minibatch=16",
    "algo.num_minibatches=4",
    "algo.num_learning_epochs=2",
    "algo.actor_hidden=[16,16]",
    "algo.critic_hidden=[16,16]",
    "physics.threads=1",
]


@pytest.fixture(scope="session", autouse=True)
def _elsewhere(tmp_path_factory):
    """Fixtures that modules share work in a folder of this session's: not near the runs and files of a user."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ.pop("KSIM_TRUST", None)
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _own_working_directory(tmp_path, monkeypatch):
    """A test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs of one module are of no use to the next: together they would take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def composed() -> dict[str, Config]:
    return {task: compose([f"task={task}", *SMALL]) for task in ("kbot_standing", "cartpole_balance")}


@pytest.fixture
def kbot_cfg(composed) -> Config:
    """The K-Bot task with 8 envs, 8 steps a rollout and small networks; the test's own to change."""
    return copy.deepcopy(composed["kbot_standing"])


@pytest.fixture
def cartpole_cfg(composed) -> Config:
    """The cart-pole task, likewise."""
    return copy.deepcopy(composed["cartpole_balance"])


@pytest.fixture
def renderer():
    """Skips the test on a machine that cannot draw."""
    try:
        return find_backend()
    except RenderError as err:
        pytest.skip(f"this machine cannot render: {err}")
