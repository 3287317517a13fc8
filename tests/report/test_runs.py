"""What is found in folders, and what is said of runs that are not as they should be."""

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ksim.config.compose import conf_dir
from ksim.errors import ConfigError
from ksim.report import runs
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile


def found(*folders: Path) -> list[str]:
    return [path.name for path in runs.find(folders, pytest.fail)]


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_runs_are_found_at_any_depth_in_natural_order_each_once(make_run, tmp_path):
    made = [make_run(f"runs/sweeps/2026-01-31_12-00-00/{n}_seed={n}") for n in (10, 2, 1)]
    plain = make_run("runs/kbot/2026-01-31_11-00-00")
    plain.update_latest()
    assert (plain.path.parent / "latest").is_dir()
    every = [plain.path.name, "1_seed=1", "2_seed=2", "10_seed=10"]
    assert found(tmp_path / "runs") == every
    assert found(tmp_path / "runs" / "sweeps", tmp_path / "runs", made[0].path) == every
    assert found(made[0].path) == ["10_seed=10"]
    assert found(plain.path.parent / "latest") == ["latest"]


def test_what_is_no_run_is_not_taken_for_one(make_run, tmp_path):
    run = make_run("runs/a/run", final={"return": 1.0})
    shutil.copytree(conf_dir(), tmp_path / "runs" / "conf")  # its config.yaml is no run's
    shutil.copytree(run.path, tmp_path / "runs" / ".hidden")
    shutil.copytree(run.path, run.checkpoints / "copy")  # nor does anything inside of a run count
    assert found(tmp_path / "runs") == ["run"]


def test_a_run_that_never_started_is_one(make_run, tmp_path):
    frozen = make_run("runs/frozen")
    frozen.status_path.unlink(), frozen.metrics_path.unlink(), frozen.provenance_path.unlink()
    (tmp_path / "runs/hydra/.hydra").mkdir(parents=True)
    assert found(tmp_path / "runs") == ["frozen", "hydra"]
    assert runs.read(frozen.path).state == "not started" and runs.read(frozen.path).remarks == []
    bare = runs.read(tmp_path / "runs/hydra")
    assert bare.state == "not started" and bare.config is None and bare.remarks == ["config.yaml is missing"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: does not exist"):
        found(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: is not a folder"):
        found(tmp_path / "file")


def test_a_completed_run(make_run):
    run = runs.read(make_run("a", seed=5, returns=[1.0, None, 2.5, None], final={"return": 7.0}).path)
    assert (run.state, run.reason, run.remarks, run.completed) == ("completed", "", [], True)
    assert (run.seed, run.step, run.wall_time_s, run.commit) == (5, 4000, 40.0, "012345678")
    assert run.total_steps == run.config["algo"]["total_steps"]
    x_T, y_T = run.curve("return")
    assert x_T.tolist() == [1000, 3000] and y_T.tolist() == [1.0, 2.5]
    assert run.numbers == {
        "eval/return": 7.0,
        "eval/falls": 0.0,
        "eval/episode_length_s": 10.0,
        "train/return": 2.5,
        "train/falls": 0.25,
        "train/episode_length_s": 2.0,
    }


@pytest.mark.parametrize("state", ["failed", "interrupted", "preempted"])
def test_a_run_that_ended_early(make_run, state):
    error = "KsimError: no space left" if state == "failed" else None
    run = runs.read(make_run("a", state=state, error=error).path)
    assert run.state == state and not run.completed and run.remarks == []
    assert run.reason == (error or runs._REASONS[state])


def test_a_run_that_goes_on(make_run):
    made = make_run("a", state="running")
    run = runs.read(made.path)
    assert run.state == "running" and run.reason == f"process {os.getpid()} on {run.status.host}"
    long_ago = (datetime.now().astimezone() - timedelta(hours=5)).isoformat()
    rewrite(made.status_path, host="another", updated_at=long_ago)
    run = runs.read(made.path)
    assert run.state == "running" and run.reason.endswith("on another; no sign of life for 5.0 h")
    rewrite(made.status_path, updated_at="yesterday")
    assert runs.read(made.path).state == "running"


def test_a_run_whose_process_is_gone(make_run):
    made = make_run("a", state="running")
    rewrite(made.status_path, pid_started=1)  # the pid is now another process's
    run = runs.read(made.path)
    assert run.state == "dead" and "gone" in run.reason and run.status.state == "running"


def test_damaged_log_lines_are_left_out_and_named(make_run):
    made = make_run("a", final={"return": 1.0})
    data = made.metrics_path.read_bytes().split(b"\n")
    data[1] = data[1][:20]
    data[2:] = [b"[]", b'{"step": "5"}', b'{"step": 1' + b"0" * 400 + b"}", *data[2:-1], b'{"step": 4000, "ret']
    made.metrics_path.write_bytes(b"\n".join(data))
    run = runs.read(made.path)
    assert [line["step"] for line in run.lines] == [1000, 3000]
    damaged, no_object, cut, no_step = run.remarks
    assert damaged.startswith("metrics.jsonl: the line at byte") and no_object.startswith("metrics.jsonl: the line at")
    assert cut == "metrics.jsonl: the last line is cut off and left out"
    assert no_step == "metrics.jsonl: 2 lines have no step of their own and are left out"


@pytest.mark.parametrize(
    ("file", "content", "remark"),
    [
        ("config.yaml", None, "config.yaml is missing"),
        ("config.yaml", b"a: [", "config.yaml is damaged: while parsing"),
        ("config.yaml", b"\xff\xfe\x00", "config.yaml is damaged"),
        ("config.yaml", b"name: a\n", "config.yaml is damaged: it has no name or no seed"),
        ("config.yaml", b"name: 2026-13-45", "config.yaml is damaged: month must be"),
        ("config.yaml", b"", "config.yaml is damaged: it has no name or no seed"),
        ("status.json", b"{", "status.json cannot be read"),
        ("status.json", b"[]", "status.json cannot be read"),
        ("metrics.jsonl", None, "metrics.jsonl is missing or has no line"),
        ("metrics.jsonl", b"", "metrics.jsonl is missing or has no line"),
        ("eval/final/metrics.json", None, "eval/final/metrics.json is missing"),
        ("eval/final/metrics.json", b"\x00", "eval/final/metrics.json cannot be read"),
        ("eval/final/metrics.json", b"[1]", "eval/final/metrics.json cannot be read"),
        ("eval/final/metrics.json", b'{"step": 3000, "summary": 3}', "eval/final/metrics.json cannot be read"),
        ("eval/final/metrics.json", b'{"step": 2000, "summary": {}}', "eval/final/metrics.json is that of step 2000"),
    ],
)
def test_what_is_damaged_or_missing_is_named_and_the_rest_is_read(make_run, file, content, remark):
    made = make_run("a", final={"return": 7.0})
    if content is None:
        (made.path / file).unlink()
    else:
        (made.path / file).write_bytes(content)
    run = runs.read(made.path)
    assert len(run.remarks) == 1 and run.remarks[0].startswith(remark)
    assert str(made.path) not in run.remarks[0]
    assert (run.config is None) == (file == "config.yaml")
    assert (run.state == "unknown") == (file == "status.json")
    assert (run.lines == []) == (file == "metrics.jsonl")
    assert (run.evaluation == {}) == file.startswith("eval")


def test_a_run_without_its_status(make_run):
    made = make_run("a")
    made.status_path.unlink()
    run = runs.read(made.path)
    assert run.state == "unknown" and run.reason == "its status.json is missing" and run.step == 3000


def test_a_file_in_the_place_of_another_kind(make_run):
    made = make_run("a", final={"return": 7.0})
    for path in (made.config_path, made.status_path, made.metrics_path, made.provenance_path):
        path.unlink()
        path.mkdir()
    run = runs.read(made.path)
    assert run.config is None and run.state == "unknown" and run.lines == [] and run.commit is None


def test_no_evaluation_was_asked_for(make_run):
    assert runs.read(make_run("a", {"eval.episodes": 0}).path).remarks == []
    assert runs.read(make_run("b", {"eval.episodes": 4}).path).remarks == ["eval/final/metrics.json is missing"]


def test_a_folder_that_cannot_be_read(make_run, tmp_path, monkeypatch):
    make_run("runs/a/run")
    make_run("runs/b/run")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    told: list[str] = []
    assert [path.parent.name for path in runs.find([tmp_path / "runs"], told.append)] == ["a"]
    assert told == [f"{tmp_path}/runs/b cannot be read: Permission denied"]


def gate_json(run: RunDir, name: str, when: str, passed: bool, **about: Any) -> None:
    """What an evaluation with `gate=true` leaves of the gate."""
    found = {"created_at": when, "engine": {"engine": "auto"}, "step": 3000, "overrides": [], "passed": passed}
    folder = run.eval / name
    folder.mkdir(parents=True)
    (folder / "gate.json").write_text(json.dumps(found | about))


def test_a_run_passes_its_gate_as_the_newest_evaluation_of_its_last_policy_says(make_run):
    run = make_run("r", final={"return": 3.0})
    assert runs.read(run.path).passes_gate is None
    gate_json(run, "a", "2026-01-01T10:00:00+00:00", True)
    assert runs.read(run.path).passes_gate is True
    gate_json(run, "b", "2026-01-01T11:00:00+00:00", False)
    gate_json(run, "of_an_older_policy", "2026-01-01T12:00:00+00:00", True, step=2000)
    gate_json(run, "of_another_task", "2026-01-01T12:00:00+00:00", True, overrides=["task.events.push=null"])
    gate_json(run, "on_another_engine", "2026-01-01T12:00:00+00:00", True, engine={"engine": "mjx"})
    found = runs.read(run.path)
    assert found.passes_gate is False and found.numbers["gate/passed"] == 0.0 and not found.remarks
    (run.eval / "b" / "gate.json").write_text("{}")
    damaged = runs.read(run.path)
    assert damaged.passes_gate is True and "gate.json cannot be read" in damaged.remarks[0]


def test_a_training_that_ended_at_its_gate_passes_it_and_knows_its_time(make_run):
    run = make_run("r")
    with StatusFile(run.status_path) as status:
        status.passed(3000, 12.5)
    numbers = runs.read(run.path).numbers
    assert (numbers["gate/passed"], numbers["gate/step"], numbers["gate/time_s"]) == (1.0, 3000.0, 12.5)
