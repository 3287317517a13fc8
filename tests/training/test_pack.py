"""Trainings side by side leave what each leaves alone, stop and resume in any company, and break one by one."""

import json
import logging
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.runs import CHUNK, SMALL, assert_same, final_state, lines_without_time

from ksim.config.compose import compose, load_frozen
from ksim.errors import KsimError
from ksim.report import runs
from ksim.store import checkpoint, metrics, run_dir, status
from ksim.store.run_dir import RunDir
from ksim.system.logs import logging_to, logging_to_each
from ksim.training.loop import train
from ksim.training.pack import _Judges, train_pack
from ksim.training.population import Population
from ksim.training.resume import resumed_config
from ksim.training.stop import StopRequest

pytestmark = pytest.mark.slow

CHUNKS = 4
# The last one breaks in its first chunk.
JOBS = ("seed=3", "seed=4 algo.learning_rate=1e-3 task.rewards.centered.std=0.5", "seed=5 algo.learning_rate=1e30")
COMMON = f"""
algo.schedule=fixed algo.total_steps={CHUNKS * CHUNK} eval.interval_steps={2 * CHUNK} eval.interval_episodes=2
eval.episodes=2 eval.video=false
""".split()


class AfterTwoChunks(StopRequest):
    """As a SIGTERM while the second chunk is trained."""

    def __init__(self, run: RunDir):
        super().__init__()
        self._run = run

    @property
    def signum(self):
        return signal.SIGTERM if metrics.read(self._run.metrics_path) else None

    @signum.setter
    def signum(self, value):
        pass


def configs(folder: Path):
    return [compose([*SMALL, *COMMON, f"runs_dir={folder}", *job.split()]) for job in JOBS]


def pack(run_dirs, made, stop=None) -> None:
    with logging_to_each([run.log_path for run in run_dirs]):
        train_pack(Population(made), run_dirs, stop)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> list[RunDir]:
    """The three of them, in one go."""
    made = configs(tmp_path_factory.mktemp("together"))
    run_dirs = [run_dir.claim(cfg.runs_dir, cfg.name) for cfg in made]
    logging.getLogger().addHandler(handler := logging.NullHandler())
    with pytest.raises(KsimError, match=f"1 of 3 trainings failed: {run_dirs[2].path.name}$"):
        pack(run_dirs, made)
    logging.getLogger().removeHandler(handler)
    return run_dirs


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> RunDir:
    """The second one without company."""
    cfg = configs(tmp_path_factory.mktemp("alone"))[1]
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    with logging_to(run.log_path):
        train(cfg, run)
    return run


def assert_close(a: RunDir, b: RunDir) -> None:
    """The same whole train state and the same log, but for rounding."""
    left, right = final_state(a), final_state(b)
    assert left.keys() == right.keys() and len(left) > 20
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=2e-3, atol=2e-4, err_msg=name)
    for one, other in zip(lines_without_time(a), lines_without_time(b), strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=2e-4)


def test_each_judgement_is_of_its_own_episodes_and_curricula():
    """The numbers of those that are due, in whatever company."""

    class Judges(_Judges):
        def __init__(self):
            judge = SimpleNamespace(numbers=lambda played, curriculum, begin: (played, curriculum["level"]))
            self._members = [SimpleNamespace(records=SimpleNamespace(judge=judge))] * 3
            self._numbers, self._keys_M, self._play = {}, None, lambda *_: np.array([10, 11, 12])

    shared = SimpleNamespace(curriculum={"level": np.array([0, 1, 2])})
    judged = Judges()(SimpleNamespace(env_carry=SimpleNamespace(shared=shared)), [0, 2])
    assert {i: numbers() for i, numbers in judged.items()} == {0: (10, 0), 2: (12, 2)}


def test_those_that_go_on_keep_their_own_numbers():
    population = Population.__new__(Population)
    population.numbers = {"algo.gamma": np.array([0.1, 0.2, 0.3]), "task.x": np.arange(6.0).reshape(3, 2)}
    own = population.numbers_of([0, 2])
    assert own["algo.gamma"].tolist() == [0.1, 0.3] and own["task.x"].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert population.numbers_of(1)["task.x"].tolist() == [2.0, 3.0]


def test_each_has_a_directory_as_if_it_were_alone(together, alone):
    def files(run):
        return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file())

    for run in together[:2]:
        assert files(run) == files(alone)
        assert status.read(run.status_path).state == "completed"
        assert checkpoint.steps(run.checkpoints) == checkpoint.steps(alone.checkpoints)
    assert_close(together[1], alone)
    assert load_frozen(together[1].config_path).algo == load_frozen(alone.config_path).algo
    found, expected = (
        json.loads((run.eval / "final" / "metrics.json").read_text())["summary"] for run in (together[1], alone)
    )
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert lines_without_time(together[0]) != lines_without_time(together[1])
    assert (together[1].path.parent / "latest").resolve() in {run.path for run in together}


def test_each_log_is_about_its_own_training(together):
    for run in together:
        text = run.log_path.read_text()
        assert text.count("run directory: ") == 1 and f"run directory: {run.path}\n" in text
        assert "side by side with 2 others, in one program" in text
    text = together[0].log_path.read_text()
    assert text.count("deterministic policy: ") == 3 and f"{CHUNKS * CHUNK:,}/{CHUNKS * CHUNK:,} steps" in text
    assert "the training failed" not in text


def test_one_that_breaks_leaves_the_others_be(together):
    found = status.read(together[2].status_path)
    assert found.state == "failed" and "the training broke before step 128: not finite: " in found.error
    assert "the training failed" in together[2].log_path.read_text()
    assert not checkpoint.steps(together[2].checkpoints)


def test_the_report_reads_them_as_any_others(together):
    found = [runs.read(run.path) for run in together]
    assert [run.status.state for run in found] == ["completed", "completed", "failed"]


def test_stopped_they_go_on_together_or_alone(tmp_path, together):
    made = configs(tmp_path / "runs")
    run_dirs = [run_dir.claim(cfg.runs_dir, cfg.name) for cfg in made]
    with pytest.raises(SystemExit) as ended:
        pack(run_dirs, made, AfterTwoChunks(run_dirs[0]))
    assert ended.value.code == 128 + signal.SIGTERM
    for run in run_dirs[:2]:
        found = status.read(run.status_path)
        assert (found.state, found.step) == ("interrupted", 2 * CHUNK)
        assert f"continue with: python -m ksim.run resume={run.path}" in run.log_path.read_text()
    single = RunDir(tmp_path / "alone")
    shutil.copytree(run_dirs[1].path, single.path)
    with pytest.raises(KsimError, match="1 of 3"):
        pack(run_dirs, made)  # the one that broke, too, from its start
    for run, undisturbed in zip(run_dirs[:2], together[:2], strict=True):
        assert_same(run, undisturbed)
    train(resumed_config(single, []), single, resume=True)
    assert status.read(single.status_path).state == "completed"
    assert_close(single, together[1])
