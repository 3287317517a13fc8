"""`python -m ksim.bench`: it runs small, measures what it says, and its output has its structure. Nothing is timed."""

import json
from functools import partial

import jax
import mujoco
import numpy as np
import pytest

from ksim import bench
from ksim.config.compose import compose
from ksim.diagnostics import manager_times
from ksim.errors import ConfigError, KsimError
from ksim.rl import PPOState
from ksim.training.experiment import Experiment, build

SMALL = """
task=cartpole_balance physics=mujoco algo.num_envs=16 algo.num_env_states_per_minibatch=32 algo.num_minibatches=2
algo.num_learning_epochs=2 algo.actor_hidden=[16] algo.critic_hidden=[16] log.interval_iterations=2 physics.threads=1
""".split()


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return build(compose(SMALL))


@pytest.fixture(scope="module")
def state(experiment) -> PPOState:
    return experiment.algorithm.init(experiment.env, jax.random.key(0))


@pytest.fixture(scope="module")
def recording(experiment, state) -> bench.Recording:
    record = partial(bench.record, experiment.env, num_steps=4)
    return jax.jit(record)(state.model.policy, state.env_carry, state.obs, jax.random.key(1))


def check(found: dict, engine: str) -> None:
    assert found["task"] == "cartpole_balance" and found["engine"]["engine"] == engine
    assert (found["num_envs"], found["rollout_length"], found["decimation"]) == (16, 4, 2)
    assert list(found["programs"]) == ["ceiling", "physics", "env", "rollout", "train"]
    for name, program in found["programs"].items():
        assert len(program["all"]) == found["repeats"] and min(program["all"]) > 0
        # The median of the times, which for an even count is not that of the rates.
        median_s = np.median(1.0 / np.array(program["all"]))
        assert program["env_steps_per_s"] == pytest.approx(1.0 / median_s)
        ceiling = found["programs"]["ceiling"]["env_steps_per_s"]
        assert program["percent_of_ceiling"] == pytest.approx(100 * program["env_steps_per_s"] / ceiling)
        assert (program["compile_s"] is None) == (name == "ceiling")
    parts = found["parts"]
    assert set(parts) == set(bench.PARTS) - ({"host callback"} if engine == "mjx" else set())
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(found["iteration_s"])
    assert sum(part["percent"] for part in parts.values()) == pytest.approx(100)
    assert parts["physics"]["seconds"] > 0


def test_it_prints_two_tables_and_writes_them_as_json(tmp_path, capsys):
    cache = jax.config.jax_enable_compilation_cache
    try:
        bench.main(
            [*SMALL, "--repeats", "2", "--warmup", "1", "--managers", "--json", str(tmp_path / "bench.json"), "seed=3"]
        )
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    found = json.loads((tmp_path / "bench.json").read_text())
    check(found, "mujoco")
    assert list(found["managers"]) == list(manager_times.PARTS)
    assert all(0 < row["seconds"] < 10 for name, row in found["managers"].items() if name != "resets")
    assert found["repeats"] == 2 and found["seed"] == 3 and found["overrides"] == [*SMALL, "seed=3"]
    out = capsys.readouterr().out
    assert "16 envs x 4 env steps an iteration, 2 physics steps each" in out
    assert "C MuJoCo on 1 CPU thread" in out and "the ceiling: 1 of" in out
    for name in (*found["programs"], *found["parts"], *found["managers"], "an iteration", "the ceiling"):
        assert f"│ {name} " in out
    assert f"{found['programs']['train']['env_steps_per_s']:,.0f}" in out
    assert f"{found['carry_bytes_per_env']:,.0f} bytes an env" in out


def test_mjx_is_compared_with_the_same_ceiling():
    check(bench.measure(build(compose([*SMALL, "physics=mjx"])), repeats=1, warmup=1), "mjx")


def test_the_recording_is_what_the_training_asks_of_the_engine(experiment, state, recording):
    assert recording.action_TEa.shape == (4, 16, 1)
    assert recording.ctrl_TESu.shape == (4, 16, 2, 1)
    np.testing.assert_array_equal(recording.physics.qpos[0], state.env_carry.envs.physics.qpos)
    np.testing.assert_allclose(
        recording.ctrl_TESu[:, :, 0], np.clip(10.0 * recording.action_TEa, -10.0, 10.0), rtol=1e-6
    )
    # Nothing resets here so early: each state is where the engine took the one before.
    physics, fields, ctrl = jax.tree.map(
        lambda x: x[0], (recording.physics, recording.model_fields, recording.ctrl_TESu)
    )
    new = experiment.env.physics.step(physics, fields, ctrl)
    stays_E = np.abs(np.asarray(recording.physics.qpos[1]) - np.asarray(new.qpos)).max(axis=1) < 1e-6
    assert stays_E.mean() > 0.7  # random ages: a few time out


def test_the_ceiling_steps_the_recorded_states(experiment, recording):
    replay = bench.Replay(experiment, recording, threads=1)
    assert replay.seconds() > 0
    model = experiment.env.scene.model
    data = mujoco.MjData(model)
    for env in range(16):
        mujoco.mj_resetData(model, data)
        for name in ("qpos", "qvel", "qacc_warmstart"):
            getattr(data, name)[:] = getattr(recording.physics, name)[-1, env]
        for ctrl in np.asarray(recording.ctrl_TESu[-1, env]):
            data.ctrl[:] = ctrl
            mujoco.mj_step(model, data)
        np.testing.assert_array_equal(replay.batch.bind("qpos")[env], data.qpos)


def test_env_states_are_counted_by_their_leaves(experiment, state):
    one_key = 8  # two 32-bit words
    physics = state.env_carry.envs.physics
    counted = bench.carry_bytes(physics) + 16 * one_key
    assert bench.carry_bytes(physics) == sum(x.size for x in jax.tree.leaves(physics)) * 4
    assert counted < bench.carry_bytes(state.env_carry) < 16 * 2000


def test_parts_add_up_to_an_iteration():
    seconds = {"physics": 5.0, "env": 8.0, "rollout": 9.0, "train": 13.0}
    found = bench.parts(seconds, {"physics": 4.0, "env": 4.5}, "mujoco")
    assert {name: part["seconds"] for name, part in found.items()} == {
        "physics": 4.5,
        "host callback": 1.0,
        "env terms": 2.5,
        "policy": 1.0,
        "learning": 4.0,
    }
    assert found["learning"]["percent"] == pytest.approx(100 * 4 / 13)
    found = bench.parts(seconds, {}, "mjx")
    assert (found["physics"]["seconds"], found["env terms"]["seconds"]) == (5.0, 3.0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["task=cartpole_balanc"], "there is no 'cartpole_balanc'"),
        (["algo.gama=1"], r"algo\.gama: no such key \(did you mean 'gamma'\?\)"),
        (["--repeats", "0"], "--repeats and --warmup must be above 0"),
        (["--repeats", "x"], "argument --repeats: invalid int value: 'x'; see --help"),
        (["--repeat", "2"], "unrecognized arguments: --repeat"),
        (["--json", "no/such/folder/x.json"], "--json: there is no folder .*/no/such/folder"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(KsimError, match=message) as error:
        bench.main(argv)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ConfigError | KsimError)
