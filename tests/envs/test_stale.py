"""Events read nothing that is out of date when they fire: it is refused at build, and the rest is as it should be."""

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task

from ksim.envs import make_env
from ksim.errors import ConfigError

E = 3
JOINTS = {"_target_": f"{MDP}.events.reset_joints", "position_range": [-0.2, 0.2], "velocity_range": [-1.0, 1.0]}


def above(ctx, key):
    """Reads where the pole is."""
    return {"qvel": ctx.qvel + 0.0 * ctx.xpos[-1, 0]}


def commanded(ctx, key):
    return {"qvel": ctx.qvel + 0.0 * ctx.command("goal")[0]}


def driven(ctx, key):
    return {"qvel": ctx.qvel + 0.0 * ctx.sensordata.sum()}


def kick(ctx, key):
    return {"qvel": ctx.qvel + 0.1}


def pull(ctx, key):
    return {"qfrc_applied": jnp.ones(2)}


def heavier(ctx, key):
    return {"body_mass": 1.1 * ctx.model_field("body_mass")}


def task(**events):
    goal = {"_target_": f"{MDP}.commands.uniform", "low": [0.0], "high": [1.0], "resampling_time_range_s": [1.0, 2.0]}
    return cartpole_task(events=events, commands={"goal": goal})


def event(target, mode):
    return {"_target_": target, "mode": mode} | ({"interval_range_s": [0.1, 0.1]} if mode == "interval" else {})


@pytest.mark.parametrize("engine", ["mujoco", "mjx"])
@pytest.mark.parametrize(("mode", "when"), [("startup", "still zero"), ("reset", "still the last episode's")])
@pytest.mark.parametrize(("target", "field"), [(above, "xpos"), (driven, "sensordata"), (commanded, "goal")])
def test_before_an_episode_only_the_state_is_there(engine, mode, when, target, field):
    with pytest.raises(ConfigError, match=rf"^task\.events\.mine: reads '.*{field}', which is {when} when a {mode}"):
        make_env(task(mine=event(target, mode)), engine)


@pytest.mark.parametrize("mode", ["step", "interval"])
@pytest.mark.parametrize(("first", "wrote"), [(kick, "qvel"), (heavier, "body_mass")])
def test_what_an_earlier_event_of_the_step_changed_is_not_read(mode, first, wrote):
    match = rf"^task\.events\.mine: reads 'xpos', which is out of date after task\.events\.first has written '{wrote}'"
    with pytest.raises(ConfigError, match=match):
        make_env(task(first=event(first, mode), mine=event(above, mode)), "mujoco")
    with pytest.raises(ConfigError, match=match):  # step events fire first, wherever they stand
        make_env(task(mine=event(above, "interval"), first=event(first, "step")), "mujoco")


@pytest.mark.parametrize("mode", ["step", "interval"])
def test_what_is_up_to_date_may_be_read(mode):
    make_env(task(mine=event(above, mode), later=event(kick, mode)), "mujoco")
    make_env(task(pull=event(pull, mode), mine=event(above, mode)), "mujoco")  # no derived field follows from a force
    make_env(task(bent=event(kick, "reset"), mine=event(above, mode)), "mujoco")
    make_env(task(first=event(kick, "step"), mine=event(commanded, mode)), "mujoco")


def write_place(ctx, key):
    """Where the pole's centre of mass is, written where it does no harm."""
    return {"dof_solimp": jnp.zeros((ctx.scene.model.nv, 5)).at[0, :3].set(ctx.xipos[-1])}


@pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjx", marks=pytest.mark.slow)])
def test_an_event_of_a_step_sees_the_state_that_the_step_starts_from(engine):
    """In stepped and in just reset envs; against MuJoCo's kinematics of that state."""
    cfg = cartpole_task(
        events={"joints": JOINTS | {"mode": "reset"}, "place": {"_target_": write_place, "mode": "step"}},
        terminations={"out": {"_target_": f"{MDP}.terminations.joint_out_of_range", "joints": "slider", "limit": 0.3}},
    )
    player = Player(cfg, engine)
    model, steps = player.env.scene.model, player.play(np.ones((25, E, 1)))
    assert any(step.out.done.any() for step in steps[:-1])
    for step in steps:
        for env in range(E):
            data = mujoco.MjData(model)
            data.qpos = step.before.envs.physics.qpos[env]
            mujoco.mj_kinematics(model, data)
            seen = step.after.envs.model_fields["dof_solimp"][env, 0, :3]
            np.testing.assert_allclose(seen, data.xipos[-1], atol=1e-5)
