"""Randomized envs as a whole: the model that each env is stepped with, and forces that pass."""

import mujoco
import numpy as np
import pytest
from support import plain
from support.envs import MDP, Player, cartpole_task

E, T = 5, 14
IMPLIED = ("body_subtreemass", "dof_M0", "dof_invweight0", "body_invweight0", "actuator_acc0", "cam_poscom0")


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def play(request):
    """Short episodes; poles of another mass in each, carts that are pushed, and a lighter pole now and then."""
    player = Player(
        cartpole_task(
            episode_length_s=0.1,
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            observations={"actor": {"terms": {"force": {"_target_": lambda ctx: ctx.qfrc_smooth}}}},
            events={
                "pose": {
                    "_target_": f"{MDP}.events.reset_joints",
                    "mode": "reset",
                    "position_range": [-0.2, 0.2],
                },
                "mass": {"_target_": f"{MDP}.randomize.mass", "mode": "reset", "bodies": "pole", "range": [0.3, 3.0]},
                "armature": {
                    "_target_": f"{MDP}.randomize.armature",
                    "mode": "interval",
                    "interval_range_s": [0.06, 0.06],
                    "range": [0.1, 0.5],
                    "operation": "add",
                },
                "force": {
                    "_target_": f"{MDP}.events.external_force",
                    "mode": "interval",
                    "interval_range_s": [0.06, 0.06],
                    "bodies": "cart",
                    "force_range": [-20.0, 20.0],
                    "duration_range_s": [0.04, 0.04],
                },
            },
        ),
        request.param,
    )
    return player, player.play(np.zeros((T, E, 1)), random_age=True)


def own_model(model, state, env):
    """The model of one env, made whole by MuJoCo itself from its inertial fields."""
    fields = {
        n: x[env] for n, x in state.envs.model_fields.items() if n in ("body_mass", "body_inertia", "dof_armature")
    }
    own = plain.edited(model, **fields)
    mujoco.mj_setConst(own, mujoco.MjData(own))
    return own


def test_constants_are_those_of_the_envs_own_inertia(play):
    """After a reset, and after an interval; in every env, at every step."""
    player, steps = play
    model = player.env.scene.model
    for step in steps:
        for env in range(E):
            own = own_model(model, step.after, env)
            for name in IMPLIED:
                got = step.after.envs.model_fields[name][env]
                np.testing.assert_allclose(got, getattr(own, name), rtol=1e-4, atol=1e-5, err_msg=name)
    drawn = np.stack([step.after.envs.model_fields["body_mass"][:, model.body("pole").id] for step in steps])
    done = np.stack([step.out.done for step in steps])
    assert np.array_equal(np.diff(drawn, axis=0) != 0, done[1:])


def test_only_what_events_write_and_imply_differs_between_envs(play):
    _, steps = play
    written = {"body_mass", "body_inertia", "dof_armature", "xfrc_applied"}
    assert set(steps[0].after.envs.model_fields) == written | set(IMPLIED)


def test_each_env_moves_with_its_own_model_and_force(play):
    player, steps = play
    model = player.env.scene.model
    pushed = 0
    for step in steps:
        for env in np.flatnonzero(~step.out.done):
            own = own_model(model, step.after, env)
            before = step.before.envs.physics
            data = plain.make(own, before.qpos[env], before.qvel[env], before.qacc_warmstart[env])
            data.xfrc_applied[:] = step.after.envs.model_fields["xfrc_applied"][env]
            pushed += data.xfrc_applied.any()
            plain.step(own, data, [[0.0], [0.0]])
            np.testing.assert_allclose(step.after.envs.physics.qpos[env], data.qpos, atol=1e-5)
            np.testing.assert_allclose(step.after.envs.physics.qvel[env], data.qvel, atol=1e-4)
    assert pushed > 5


def test_forces_pass_and_a_reset_ends_them(play):
    """Two steps of three, from the interval's end on; a fresh episode starts without."""
    player, steps = play
    cart = player.env.scene.model.body("cart").id
    age = None
    for step in steps:
        on = step.after.envs.model_fields["xfrc_applied"][:, cart].any(axis=1)
        age = None if age is None else np.where(step.before.envs.episode_step == 0, 1, age + 1)
        fresh = step.out.done
        assert not on[fresh].any()
        if age is not None:
            expected = (age >= 3) & (age % 3 != 2)
            known = ~fresh & (started | (step.before.envs.episode_step == 0))
            assert np.array_equal(on[known], expected[known])
            started |= step.before.envs.episode_step == 0
        else:
            age, started = np.ones(E, int), np.zeros(E, bool)
    assert started.all()


def test_what_a_reset_env_shows_is_of_its_new_model(play):
    """The full forward pass of a reset uses the mass that the reset has drawn."""
    player, steps = play
    seen = 0
    for step in steps:
        for env in np.flatnonzero(step.out.done):
            own, physics = own_model(player.env.scene.model, step.after, env), step.after.envs.physics
            data = plain.forward(own, plain.make(own, physics.qpos[env], physics.qvel[env]), [0.0])
            np.testing.assert_allclose(step.out.obs["actor"][env], data.qfrc_smooth, rtol=1e-4, atol=1e-4)
            seen += 1
    assert seen > E


def test_a_startup_draws_once():
    """Each env keeps its mass through its episodes, and the constants are the mass's from the first step on."""
    player = Player(
        cartpole_task(
            episode_length_s=0.1,
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            events={
                "mass": {"_target_": f"{MDP}.randomize.mass", "mode": "startup", "bodies": "pole", "range": [0.3, 3.0]}
            },
        )
    )
    model = player.env.scene.model
    steps = player.play(np.zeros((7, E, 1)))
    assert any(step.out.done.any() for step in steps)
    for state in (steps[0].before, *(step.after for step in steps)):
        assert np.array_equal(state.envs.model_fields["body_mass"], steps[0].before.envs.model_fields["body_mass"])
        for env in range(E):
            own = own_model(model, state, env)
            np.testing.assert_allclose(state.envs.model_fields["dof_invweight0"][env], own.dof_invweight0, rtol=1e-4)
    assert np.unique(steps[0].before.envs.model_fields["body_mass"][:, model.body("pole").id]).size == E


MASS = {"_target_": f"{MDP}.randomize.mass", "bodies": "pole", "range": [0.3, 3.0]}
EVERY = {"interval_range_s": [0.04, 0.06]}


@pytest.mark.parametrize(("mode", "when"), [("startup", {}), ("reset", {}), ("interval", EVERY), ("step", {})])
def test_constants_follow_a_mass_in_each_mode(mode, when):
    """In every env and at every step; and a fresh episode's forward pass has them, too."""
    player = Player(
        cartpole_task(
            episode_length_s=0.1,
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            events={"mass": MASS | {"mode": mode} | when},
        )
    )
    model = player.env.scene.model
    steps = player.play(np.zeros((7, E, 1)), random_age=True)
    for state in (steps[0].before, *(step.after for step in steps)):
        for env in range(E):
            own = own_model(model, state, env)
            for name in IMPLIED:
                got = state.envs.model_fields[name][env]
                np.testing.assert_allclose(got, getattr(own, name), rtol=1e-4, atol=1e-5, err_msg=name)
    pole = np.stack([step.after.envs.model_fields["body_mass"][:, model.body("pole").id] for step in steps])
    changes = {"startup": 0, "reset": 1, "interval": 1, "step": 6}[mode]
    assert np.all((np.diff(pole, axis=0) != 0).sum(axis=0) >= changes)
