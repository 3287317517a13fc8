"""The dump of the NaN guard: what a training leaves of envs that diverged, and its replay in plain C MuJoCo."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support.runs import CHUNK, final_state, fresh

from ksim.config.compose import compose
from ksim.diagnostics import diverged
from ksim.envs import guard
from ksim.envs.scene import build_scene
from ksim.errors import KsimError
from ksim.physics import initial_state, make_physics
from ksim.training.loop import train
from ksim.training.resume import resumed_config

# A cart and a pole so light that the motor, as strong, breaks the physics; with the compiled masses it does not.
BREAKING = """
task.actions.force={_target_:ksim.mdp.actions.joint_velocity,joints:slider,scale:3e9}
+task.events.gains={_target_:ksim.mdp.randomize.gains,mode:startup,kd_range:[1e-4,1e-4]}
+task.events.motor={_target_:ksim.mdp.randomize.torque_limit,mode:startup,joints:slider,range:[1e12,1e12]}
+task.events.mass={_target_:ksim.mdp.randomize.mass,mode:startup,bodies:[cart,pole],range:[1e-4,1.1e-4]}
+task.events.encoders={_target_:ksim.mdp.randomize.encoder_bias,mode:reset,range:[-0.01,0.01]}
+task.events.wind={_target_:ksim.mdp.events.external_force,mode:step,bodies:pole,duration_range_s:[0.02,0.02],force_range:[1,2]}
""".split()


@pytest.fixture(scope="module")
def broken_run(tmp_path_factory):
    """A training in which envs diverge."""
    return fresh(tmp_path_factory.mktemp("broken"), "runs", 2, *BREAKING)


def test_what_a_training_leaves_diverges_again(broken_run):
    """In plain C MuJoCo, in the step that is kept; with the compiled model's masses or other controls, it does not."""
    found = diverged.load(broken_run.nan_guard)
    assert len(found) == 4
    assert len({tuple(broken.state["qpos"]) for broken in found}) == 4
    for broken in found:
        assert {"body_mass", "dof_invweight0", "xfrc_applied", "actuator_forcerange"} <= set(broken.model_fields)
        assert "encoder_bias" not in broken.model_fields  # it is not the engine's
        assert broken.model_fields["body_mass"].max() < 1.1e-4 < broken.model.body_mass.max()
        assert broken.model_fields["xfrc_applied"][-1, :3].min() >= 1
        assert broken.ctrl_Su.shape == (2, 1)
        replayed = broken.replay()
        assert replayed.diverged_after in (1, 2) and "unstable" in replayed.warnings[0]
        np.testing.assert_array_equal(replayed.qpos_Sq[0], broken.state["qpos"])

        kept = {name: x for name, x in broken.model_fields.items() if not name.startswith(("body_", "dof_"))}
        heavy = replace(broken, model_fields=kept).replay()
        still = replace(broken, ctrl_Su=np.zeros_like(broken.ctrl_Su)).replay()
        assert heavy.diverged_after is None and still.diverged_after is None


def test_a_replay_leaves_no_trace(broken_run, tmp_path, monkeypatch):
    """No log file of MuJoCo's in the working directory, its warnings where they went before, the same result again."""
    monkeypatch.chdir(tmp_path)
    (broken, *_) = diverged.load(broken_run.nan_guard)
    before, mass = mujoco.get_mju_user_warning(), broken.model.body_mass.copy()
    one, two = broken.replay(), broken.replay()
    assert list(tmp_path.iterdir()) == [] and mujoco.get_mju_user_warning() is before
    np.testing.assert_array_equal(one.qvel_Sv, two.qvel_Sv)
    np.testing.assert_array_equal(broken.model.body_mass, mass)


def test_a_resume_does_not_dump_again(broken_run, tmp_path):
    """The slots are in the checkpoint: a run's first diverged envs stay its first."""
    run = replace(broken_run, path=tmp_path / "copy")
    shutil.copytree(broken_run.path, run.path)
    kept = {name: x for name, x in final_state(run).items() if "diverged" in name}
    assert len(kept) > 10 and any("body_mass" in name for name in kept)
    (count,) = (x for name, x in kept.items() if "count" in name)
    assert count == 4
    shutil.rmtree(run.nan_guard)
    train(resumed_config(run, [f"algo.total_steps={3 * CHUNK}"]), run, resume=True)
    assert not run.nan_guard.exists()
    after = final_state(run)
    for name, x in kept.items():
        np.testing.assert_array_equal(after[name], x, err_msg=name)


E, S = 3, 3


@pytest.fixture(scope="module")
def kbots():
    """K-Bots on the floor that differ in all kinds of things, and what the engine makes of a step with them.

    The engine's result, the compiled model, and what the engine was given.
    """
    # One iteration of the solver: what it starts from is seen in the result.
    scene = build_scene(compose(["task=kbot_standing", "task.sim.iterations=1"]).task)
    model, rng = scene.model, np.random.default_rng(0)

    def differing(name, scale):
        return (getattr(model, name) * rng.uniform(1 - scale, 1 + scale, (E, *getattr(model, name).shape))).astype("f4")

    fields = {name: differing(name, 0.2) for name in ("body_mass", "geom_friction", "actuator_gainprm")}
    fields |= {name: differing(name, 0.02) for name in ("body_ipos", "body_iquat", "geom_pos")}
    fields["xfrc_applied"] = rng.normal(0, 2, (E, model.nbody, 6)).astype("f4")
    fields["qfrc_applied"] = rng.normal(0, 1, (E, model.nv)).astype("f4")
    fields["opt.gravity"] = rng.normal([0, 0, -9.8], 1, (E, 3)).astype("f4")
    fields["opt.timestep"] = np.float32([0.002, 0.004, 0.005])
    qpos = np.tile(scene.home_qpos, (E, 1)) + rng.normal(0, 0.005, (E, model.nq))
    physics = replace(
        initial_state(model, (), E),
        qpos=jnp.asarray(qpos - [0, 0, 0.01] @ np.eye(3, model.nq), jnp.float32),
        qvel=jnp.asarray(rng.normal(0, 0.1, (E, model.nv)), jnp.float32),
    )
    ctrl_ESu = jnp.asarray(scene.home_joint_pos + rng.normal(0, 0.1, (E, S, model.nu)), jnp.float32)
    fields = {name: jnp.asarray(value) for name, value in fields.items()}
    engine = make_physics("mujoco", model, (), 1)
    physics = replace(physics, qacc_warmstart=engine.step(physics, fields, ctrl_ESu[:, :1]).qacc_warmstart)
    return engine.step(physics, fields, ctrl_ESu), model, guard.given(physics, fields, ctrl_ESu)


def kept(given, bad_E):
    empty = guard.none_diverged(given)
    return jax.device_get(jax.jit(guard.keep_first)(empty, jnp.asarray(bad_E), given))


def test_a_replay_is_the_engine_s_step(kbots, tmp_path):
    """Bit by bit: nothing that the engine was given is missing. So without any part of it."""
    after, model, given = kbots
    diverged.save(tmp_path / "dump", model, kept(given, [True, False, True]))
    found = diverged.load(tmp_path / "dump")
    assert len(found) == 2
    for env, broken in zip((0, 2), found, strict=True):
        replayed = broken.replay()
        assert len(replayed.qpos_Sq) == S + 1 and replayed.diverged_after is None and not replayed.warnings
        np.testing.assert_array_equal(replayed.qpos_Sq[-1].astype(np.float32), after.qpos[env])
        np.testing.assert_array_equal(replayed.qvel_Sv[-1].astype(np.float32), after.qvel[env])

    def differs(**changes):
        return not np.array_equal(replace(broken, **changes).replay().qvel_Sv[-1].astype("f4"), after.qvel[2])

    for name in broken.model_fields:
        assert differs(model_fields={n: x for n, x in broken.model_fields.items() if n != name}), name
    for name in ("qpos", "qvel", "qacc_warmstart"):
        assert differs(state=broken.state | {name: 1.01 * broken.state[name]}), name
    for s in range(S):
        assert differs(ctrl_Su=broken.ctrl_Su * (1.0 + 0.1 * np.eye(S)[s])[:, None]), s


def test_only_new_ones_are_written(kbots, tmp_path):
    _, model, given = kbots
    folder = tmp_path / "dump"
    diverged.save(folder, model, kept(given, [False, True, False]))
    first = (folder / "0.npz").stat().st_mtime_ns
    diverged.save(folder, model, kept(given, [False, True, True]), start=1)
    assert sorted(path.name for path in folder.iterdir()) == ["0.npz", "1.npz", "model.mjb"]
    assert (folder / "0.npz").stat().st_mtime_ns == first
    np.testing.assert_array_equal(diverged.load(folder)[1].state["qpos"], given["qpos"][2])


def test_a_state_that_was_broken_before_the_physics_is_told_apart(kbots):
    _, model, given = kbots
    slots = kept(given, [True, False, False])
    ctrl_Su = slots.given["ctrl"][0]
    state = {name: slots.given[name][0] for name in ("qpos", "qvel", "act", "qacc_warmstart")}
    for name, value, is_broken in (("qvel", np.nan, True), ("qpos", 1e11, True), ("qvel", 1e9, False)):
        written = np.array(state[name])
        written[0] = value
        replayed = diverged.DivergedEnv(model, state | {name: written}, {}, ctrl_Su).replay()
        assert (replayed.diverged_after == 0) == is_broken, (name, value)


def test_a_dump_that_cannot_be_read_says_so(kbots, tmp_path):
    _, model, given = kbots
    with pytest.raises(KsimError, match="holds nothing of the NaN guard"):
        diverged.load(tmp_path)
    diverged.save(tmp_path, model, kept(given, [True, False, False]))
    (tmp_path / "model.mjb").write_bytes(b"another version's")
    with pytest.raises(KsimError, match="model.mjb cannot be read by MuJoCo"):
        diverged.load(tmp_path)
