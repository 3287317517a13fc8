"""`python -m ksim.bench`: it runs small, and its output has its structure. Nothing is timed."""

import json

import jax
import pytest
from support.bench import SMALL, check

from ksim import bench
from ksim.diagnostics import manager_times
from ksim.errors import ConfigError

pytestmark = pytest.mark.slow  # it measures


def test_it_prints_two_tables_and_writes_them_as_json(tmp_path, capsys):
    cache = jax.config.jax_enable_compilation_cache
    try:
        bench.main([*SMALL, "repeats=2", "warmup=1", "managers=true", f"json={tmp_path / 'bench.json'}", "seed=3"])
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    found = json.loads((tmp_path / "bench.json").read_text())
    check(found, "mujoco")
    assert list(found["managers"]) == list(manager_times.PARTS)
    assert all(0 < row["seconds"] < 10 for name, row in found["managers"].items() if name != "resets")
    assert found["repeats"] == 2 and found["seed"] == 3 and found["overrides"] == [*SMALL, "seed=3"]
    out = capsys.readouterr().out
    assert "16 envs x 4 env steps per iteration, 2 physics steps each" in out
    assert "C MuJoCo on 1 CPU thread" in out and "the ceiling: 1 of" in out
    for name in (*found["programs"], *found["parts"], *found["managers"], "an iteration", "the ceiling"):
        assert f"│ {name} " in out
    assert f"{found['programs']['train']['env_steps_per_s']:,.0f}" in out
    assert f"{found['carry_bytes_per_env']:,.0f} bytes per env" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["task=cartpole_balanc"], "there is no 'cartpole_balanc'"),
        (["algo.gama=1"], r"algo\.gama: no such key \(did you mean 'gamma'\?\)"),
        (["+foo=1"], r"foo: no such key"),
        (["repeats=0"], r"repeats: must be above 0, not 0$"),
        (["warmup=x"], r"warmup: must be a whole number, not 'x'$"),
        (["repeat=2"], r"repeat: no such option \(did you mean 'repeats'\?\)$"),
        (["sed=2"], r"sed: no such option \(did you mean 'seed'\?\)$"),
        (
            ["xyz=2"],
            r"xyz: no such option \(there are 'repeats', .*'json', and the config's keys\)$",
        ),
        (
            ["--repeats", "2"],
            r"--repeats: is not an option of .* \(did you mean 'repeats'\?\); see --help$",
        ),
        (["task"], r"task: is not an override of the form key=value$"),
        (["json=no/such/folder/x.json"], "json: there is no folder .*/no/such/folder$"),
        (["action=train"], "is a flag of K-Scale's earlier ksim"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(ConfigError, match=message) as error:
        bench.main(argv)
    assert "\n" not in str(error.value)


def test_help_shows_what_it_takes(capsys):
    bench.main(["--help"])
    out = capsys.readouterr().out
    assert "repeats=3" in out and "json=<file>" in out
