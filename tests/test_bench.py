"""`python -m ksim.bench`: it runs small, and its output has its structure. Nothing is timed."""

import json

import jax
import pytest
from support.bench import SMALL, check

from ksim import bench
from ksim.diagnostics import manager_times
from ksim.errors import ConfigError


def test_it_prints_two_tables_and_writes_them_as_json(tmp_path, capsys):
    cache = jax.config.jax_enable_compilation_cache
    try:
        bench.main([*SMALL, "repeats=2", "warmup=1", "managers=true", f"json={tmp_path / 'bench.json'}", "seed=3"])
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    (found,) = json.loads((tmp_path / "bench.json").read_text())["runs"]
    check(found, "mujoco")
    assert found["peak_memory"]["process"] > 100e6
    assert 0 < found["warm_compile_s"] < found["programs"]["train"]["compile_s"]
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
    assert "the model: 2 degrees of freedom, 0 geoms that collide" in out and "0.0 contacts, 0.0 constraint rows" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "measured"),
    [
        (["envs=16,32"], [("mujoco", 16), ("mujoco", 32)]),
        pytest.param(
            ["envs=16,32", "vs=mjx"],
            [("mujoco", 16), ("mujoco", 32), ("mjx", 16), ("mjx", 32)],
            marks=pytest.mark.training,  # it compiles for minutes
        ),
    ],
)
def test_numbers_of_envs_and_engines_are_measured_in_one_run(options, measured, tmp_path, capsys):
    """Each training is compiled anew, and then from the cache."""
    bench.main([*SMALL, "repeats=1", "warmup=1", *options, f"json={tmp_path / 'bench.json'}"])
    runs = json.loads((tmp_path / "bench.json").read_text())["runs"]
    assert [(run["engine"]["engine"], run["num_envs"]) for run in runs] == measured
    assert {run["rollout_length"] for run in runs} == {4}
    for run in runs:
        assert run["warm_compile_s"] > 0 and run["programs"]["train"]["compile_s"] > 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    table = [[cell.strip() for cell in row] for row in rows]
    assert [row[:2] for row in table] == [[engine, str(number)] for engine, number in measured]
    for row, run in zip(table, runs, strict=True):
        assert row[2] == f"{run['programs']['train']['env_steps_per_s']:,.0f}"
        assert row[3] == f"{run['programs']['train']['physics_steps_per_s']:,.0f}"
        assert row[5] == f"{run['programs']['env']['env_steps_per_s']:,.0f}"
        assert row[7] == f"{run['warm_compile_s']:.1f}"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["task=cartpole_balanc"], "there is no 'cartpole_balanc'"),
        (["algo.gama=1"], r"algo\.gama: no such key \(did you mean 'gamma'\?\)"),
        (["+foo=1"], r"foo: no such key"),
        (["envs=16,x"], r"envs: must be whole numbers with commas, such as 256,512, not '16,x'$"),
        (
            ["task=cartpole_balance", "algo.num_env_states_per_minibatch=64", "envs=101"],
            r"envs=101: minibatches that grow with them are whole with multiples of 4$",
        ),
        (["vs=mxj"], r"physics\.engine: there is no 'mxj' \(did you mean 'mjx'\?\)"),
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
