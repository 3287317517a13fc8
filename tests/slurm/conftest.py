"""A working directory on the login node, and the training that the others are compared to."""

import os
import shutil
from collections.abc import Iterator

import pytest
from support.cluster import Login, make_login

from ksim.store.run_dir import RunDir


@pytest.fixture(autouse=True, scope="session")
def cluster() -> None:
    if "SLURM_LAB" not in os.environ or not shutil.which("sbatch"):
        pytest.skip("tests/slurm/run starts a Slurm and runs these")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> RunDir:
    """The training that others are compared to: a sweep of one job, which nothing disturbs."""
    with make_login(tmp_path_factory.mktemp("undisturbed")) as login:
        code, printed = login.run("hydra.sweep.dir=s", "seed=5")
        assert code == 0, printed
        (run,) = login.jobs("s")
        return run


@pytest.fixture
def login(tmp_path) -> Iterator[Login]:
    with make_login(tmp_path) as login:
        yield login
