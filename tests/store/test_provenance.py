"""Provenance: what can be known is there, and nothing fails."""

import json
import subprocess
import sys

import pytest

from ksim.store import provenance


def _git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state(tmp_path):
    assert provenance.git_state(tmp_path) is None
    _git(tmp_path, "init", "-b", "main")
    empty = provenance.git_state(tmp_path)
    assert empty is not None and empty["commit"] is None
    (tmp_path / "a.txt").write_text("one\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "x")
    clean = provenance.git_state(tmp_path)
    assert clean is not None and len(clean["commit"]) == 40 and not clean["dirty"] and clean["diff"] == ""
    (tmp_path / "a.txt").write_text("two\n" * 100_000)
    (tmp_path / "b.txt").write_text("new\n")
    dirty = provenance.git_state(tmp_path)
    assert dirty is not None and dirty["dirty"] and "+two" in dirty["diff"] and dirty["untracked"] == ["b.txt"]
    assert dirty["diff_cut"] and len(dirty["diff"]) == 200_000


def test_collect_is_json_and_takes_extras(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JWT", "secret")
    found = provenance.collect({"devices": ["cpu"], "threads": 2})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["packages"]["jax"] and found["devices"] == ["cpu"] and found["cpu"]["count"] >= 1
    assert found["environment"]["SLURM_JOB_ID"] == "7" and "SLURM_JWT" not in found["environment"]
    assert found["command"] and found["host"] and found["python"].startswith(f"{sys.version_info.major}.")


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_without_git(monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert "unknown" in provenance.collect()["git"]["cwd"]


def test_no_backend_is_started():
    code = (
        "from ksim.store import provenance; provenance.collect(); import jax._src.xla_bridge as b; print(b._backends)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "{}", done.stdout + done.stderr


def test_a_resume_adds_its_own(tmp_path):
    path = tmp_path / "provenance.json"
    for number in range(3):
        provenance.write(path, {"number": number})
    found = json.loads(path.read_text())
    assert found["number"] == 0 and [resume["number"] for resume in found["resumes"]] == [1, 2]
