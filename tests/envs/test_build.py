"""What is found when an env is built: every mistake in a term names its place in the task."""

import re
import textwrap
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support.envs import MDP, Player, cartpole_task, kbot_task

from ksim.config.schema import SimCfg
from ksim.envs import make_env
from ksim.envs.managers.timers import covering_steps
from ksim.errors import ConfigError


@pytest.mark.parametrize(
    ("seconds", "step_dt", "steps"),
    [
        (20, 0.02, 1000),
        (20.0, 0.005 * 4, 1000),
        (0.14, 0.02, 7),  # in floats, 7.000000000000001
        (0.28, 0.01 * 4, 7),  # likewise
        (0.3, 0.1, 3),  # 2.9999999999999996
        (0.7, 0.1, 7),  # 6.999999999999999
        (0.21, 0.02, 11),  # rounded up
        (0.001, 0.02, 1),
        (0.0, 0.02, 0),
        (-1.0, 0.02, 0),
    ],
)
def test_steps_of_an_episode(seconds, step_dt, steps):
    assert covering_steps(seconds, step_dt) == steps


def test_twenty_seconds_are_a_thousand_steps():
    env = make_env(kbot_task(episode_length_s=20.0), "mujoco")
    assert env.step_dt == pytest.approx(0.02) and env.physics_dt == 0.005 and env.max_episode_steps == 1000


def vector(ctx):
    return ctx.joint_pos


def matrix(ctx):
    return jnp.outer(ctx.joint_pos, ctx.joint_pos)


def writes(**values):
    return lambda ctx, key: values


def reward(**term):
    return {"rewards": {"mine": {"weight": 1.0, **term}}}


def observation(**term):
    return {"observations": {"actor": {"terms": {"mine": term}}}}


def event(**values):
    return {"events": {"mine": {"_target_": writes(**values), "mode": "reset"}}}


MISTAKES = {
    "reward_vector": (
        reward(_target_=vector),
        r"^task\.rewards\.mine: must return a scalar for one env, not an array of shape \(2,\)$",
    ),
    "reward_list": (
        reward(_target_=lambda ctx: [ctx.joint_pos[0], 2.0]),
        r"^task\.rewards\.mine: must return a scalar for one env, not an array of shape \(2,\)$",
    ),
    "reward_of_length_one": (
        reward(_target_=lambda ctx: ctx.joint_pos[:1]),
        r"^task\.rewards\.mine: must return a scalar for one env, not an array of shape \(1,\)$",
    ),
    "reward_none": (
        reward(_target_=lambda ctx: None),
        r"^task\.rewards\.mine: must return a scalar for one env, not None$",
    ),
    "reward_dict": (
        reward(_target_=lambda ctx: {"a": 1.0}),
        r"^task\.rewards\.mine: must return a scalar for one env, not \{'a': 1\.0\}$",
    ),
    "termination_vector": (
        {"terminations": {"mine": {"_target_": vector}}},
        r"^task\.terminations\.mine: must return true or false for one env, not an array of shape \(2,\)$",
    ),
    "termination_list": (
        {"terminations": {"mine": {"_target_": lambda ctx: [True, ctx.joint_pos[0] > 0]}}},
        r"^task\.terminations\.mine: must return true or false for one env, not an array of shape \(2,\)$",
    ),
    "termination_number": (
        {"terminations": {"mine": {"_target_": lambda ctx: ctx.joint_pos[0]}}},
        r"^task\.terminations\.mine: must return true or false for one env, not a number of type float32$",
    ),
    "termination_none": (
        {"terminations": {"mine": {"_target_": lambda ctx: None}}},
        r"^task\.terminations\.mine: must return true or false for one env, not None$",
    ),
    "metric_vector": (
        {"metrics": {"mine": {"_target_": vector}}},
        r"^task\.metrics\.mine: must return a scalar .* \(2,\)$",
    ),
    "observation_matrix": (
        observation(_target_=matrix),
        r"^task\.observations\.actor\.terms\.mine: must return a vector for one env, not an array of shape \(2, 2\)$",
    ),
    "observation_none": (
        observation(_target_=lambda ctx: None),
        r"^task\.observations\.actor\.terms\.mine: must return a vector for one env, not None$",
    ),
    "observation_scale": (
        observation(_target_=vector, scale=[1.0, 2.0, 3.0]),
        r"^task\.observations\.actor\.terms\.mine\.scale: has 3 factors for 2 elements$",
    ),
    "joint_regex": (
        reward(_target_=f"{MDP}.rewards.joint_vel", joints="hing"),
        r"^task\.rewards\.mine: no joint matches 'hing' \(did you mean 'hinge'\?\); there are: slider, hinge$",
    ),
    "action_regex": (
        {"actions": {"mine": {"_target_": f"{MDP}.actions.joint_effort", "joints": "hinge"}}},
        r"^task\.actions\.mine: no actuated joint matches 'hinge'; there are: slider$",
    ),
    "sensor": (
        observation(_target_=f"{MDP}.observations.sensor", name="imu"),
        r"^task\.observations\.actor\.terms\.mine: no sensor matches 'imu'",
    ),
    "no_base": (
        reward(_target_=f"{MDP}.rewards.upright"),
        r"^task\.rewards\.mine: robot 'cartpole' has no floating base$",
    ),
    "push_without_base": (
        {"events": {"mine": {"_target_": f"{MDP}.events.push", "mode": "step", "speed": 1.0}}},
        r"^task\.events\.mine: robot 'cartpole' has no floating base$",
    ),
    "unknown_write": (
        event(qvell=[0.0, 0.0]),
        r"^task\.events\.mine: writes 'qvell', which is neither one of qpos, qvel, act, .* nor a field .*'qvel'\?\)$",
    ),
    "write_to_structure": (event(nq=2.0), r"^task\.events\.mine: writes 'nq', which is neither"),
    "write_of_integers": (event(geom_type=[]), r"^task\.events\.mine: writes 'geom_type', which is neither"),
    "event_none": (
        {"events": {"mine": {"_target_": lambda ctx, key: None, "mode": "step"}}},
        r"^task\.events\.mine: must return what it writes by name, such as \{'qvel': \.\.\.\}, not None$",
    ),
    "event_array": (
        {"events": {"mine": {"_target_": lambda ctx, key: ctx.qvel, "mode": "step"}}},
        r"^task\.events\.mine: must return what it writes by name, such as ",
    ),
    "write_of_none": (event(qvel=None), r"^task\.events\.mine: must return an array for 'qvel' for one env, not None$"),
    "shape_of_state": (
        event(qvel=[0.0]),
        r"^task\.events\.mine: writes 'qvel' of shape \(1,\); its shape is \(2,\)$",
    ),
    "shape_of_field": (
        event(body_mass=1.0),
        r"^task\.events\.mine: writes 'body_mass' of shape \(\); its shape is \(\d,\)$",
    ),
    "time_out_without_limit": (
        {"terminations": {"mine": {"_target_": vector, "time_out": True}}},
        r"^task\.terminations\.\w+: a time-out needs task\.episode_length_s above 0; set it, or",
    ),
    "time_out_with_a_negative_limit": (
        {"terminations": {"mine": {"_target_": f"{MDP}.terminations.time_out"}}, "episode_length_s": -1.0},
        r"^task\.terminations\.\w+: a time-out needs task\.episode_length_s above 0; set it, or",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_term_names_its_place(name):
    managers, message = MISTAKES[name]
    with pytest.raises(ConfigError) as error:
        make_env(cartpole_task(**managers), "mujoco")
    assert re.search(message, str(error.value)), str(error.value)


def misspelt(ctx):
    return ctx.basepos[2]  # misspelt


def wrong_product(ctx):
    return ctx.joint_pos @ jnp.ones(3)  # wrong product


def branches(ctx):
    return 1.0 if ctx.joint_pos[0] > 0 else 0.0  # branches


def through_a_helper(ctx):
    return jax.vmap(helper)(ctx.joint_pos).sum()


def helper(x):
    raise KeyError("torso")  # helper


def silent(ctx, *args):
    raise AssertionError  # silent


class Breaks(eqx.Module):
    """Where `breaks` says."""

    breaks: str

    def __check_init__(self):
        assert self.breaks != "built"  # built

    def init(self, ctx, *args):
        assert self.breaks != "started"  # started

    def __call__(self, ctx, *args):
        assert self.breaks != "called"  # called


def mine(**term):
    return {"mine": term}


TIMER = {"resampling_time_range_s": [1.0, 1.0]}
# What breaks, the comment at the line where it does, and the error.
BREAKS = {
    "name": (
        reward(_target_=misspelt),
        "misspelt",
        "AttributeError: the context has no 'basepos' (did you mean 'base_p",
    ),
    "product": (
        reward(_target_=wrong_product),
        "wrong product",
        "TypeError: dot_general requires contracting dimensio",
    ),
    "branch": (reward(_target_=branches), "branches", "TracerBoolConversionError: Attempted boolean conversion "),
    "helper": (reward(_target_=through_a_helper), "helper", "KeyError: 'torso'"),
    "class": (reward(_target_=Breaks, breaks="built"), "built", "AssertionError"),
    "memory": (reward(_target_=Breaks, breaks="started"), "started", "AssertionError"),
    "call": ({"metrics": mine(_target_=Breaks, breaks="called")}, "called", "AssertionError"),
    "observation": (observation(_target_=silent), "silent", "AssertionError"),
    "termination": ({"terminations": mine(_target_=silent)}, "silent", "AssertionError"),
    "event": ({"events": mine(_target_=silent, mode="reset")}, "silent", "AssertionError"),
    "action": ({"actions": mine(_target_=silent)}, "silent", "AssertionError"),
    "curriculum": ({"curriculum": mine(_target_=silent)}, "silent", "AssertionError"),
    "command": ({"commands": mine(_target_=silent, **TIMER)}, "silent", "AssertionError"),
    "command's draw": ({"commands": mine(_target_=Breaks, breaks="started", **TIMER)}, "started", "AssertionError"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_an_error_in_a_term_is_told_with_its_place_and_line(name):
    """Whatever a user's function raises: where it stands in the task, and where in the user's code it went wrong."""
    managers, comment, text = BREAKS[name]
    file = Path(__file__)
    (line,) = (i for i, code in enumerate(file.read_text().splitlines(), 1) if code.endswith(f"  # {comment}"))
    with pytest.raises(ConfigError) as error:
        make_env(cartpole_task(**managers), "mujoco")
    (kind,) = managers
    path = "task.observations.actor.terms.mine" if kind == "observations" else f"task.{kind}.mine"
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    assert str(error.value).startswith(f"{path}: {shown}:{line}: {text}")
    assert "\n" not in str(error.value)
    assert type(error.value.__cause__).__name__ == text.split(":")[0]


def test_an_error_in_a_package_of_the_users_is_told_where_it_came_up(tmp_path, monkeypatch):
    """Its deepest line in the package, not that of what the package calls."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "terms.py").write_text("from . import maths\n\ndef t(ctx):\n    return maths.f(ctx)\n")
    maths = """
        import json

        def f(ctx):
            return json.loads("")
    """
    (tmp_path / "own_package" / "maths.py").write_text(textwrap.dedent(maths))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as error:
        make_env(cartpole_task(**reward(_target_="own_package.terms.t")), "mujoco")
    place = tmp_path / "own_package" / "maths.py"
    assert str(error.value).startswith(f"task.rewards.mine: {place}:5: JSONDecodeError: Expecting value")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^task\.rewards\.mine: own_package/maths\.py:5: JSONDecodeError"):
        make_env(cartpole_task(**reward(_target_="own_package.terms.t")), "mujoco")


def test_times_of_a_sensor_that_keeps_none():
    sensor = {"_target_": f"{MDP}.sensors.contact", "geoms": "cart"}
    cfg = cartpole_task(**reward(_target_=lambda ctx: ctx.contact("touch").air_time[0]))
    cfg.scene.sensors = {"touch": sensor}
    with pytest.raises(ConfigError, match=r"^task\.rewards\.mine: contact sensor 'touch' keeps no times; set task\.sc"):
        make_env(cfg, "mujoco")


def test_what_a_term_checks_as_it_runs_stays_its_own_error():
    """Not the task's mistake, but what `equinox.error_if` found in a value: it is not told as a mistake in a term."""

    def checked(ctx):
        return eqx.error_if(ctx.joint_pos[0], ctx.joint_pos[0] > 0.5, "too far")

    env = make_env(cartpole_task(**reward(_target_=checked)), "mujoco")
    state, _ = env.reset(jax.random.key(0), 1)
    out_of_place = eqx.tree_at(lambda s: s.envs.physics.qpos, state, jnp.ones((1, 2)))
    for step in (env.step, jax.jit(env.step)):
        with pytest.raises(Exception, match="too far") as error:
            jax.block_until_ready(step(out_of_place, jnp.zeros((1, 1))))
        assert not isinstance(error.value, ConfigError)


def test_a_field_that_an_engine_cannot_vary_is_refused():
    """C MuJoCo takes body_margin per env, MJX has no such field."""

    def write(ctx, key):
        return {"body_margin": ctx.model_field("body_margin")}

    cfg = cartpole_task(events={"mine": {"_target_": write, "mode": "reset"}})
    assert make_env(cfg, "mujoco").events.model_fields == {"body_margin": "task.events.mine"}
    with pytest.raises(ConfigError, match=r"task\.events\.mine: mjModel's 'body_margin' cannot differ .* physics=mjx"):
        make_env(cfg, "mjx")


def test_a_term_of_weight_zero_is_not_even_traced():
    def broken(ctx):
        raise AssertionError

    env = make_env(cartpole_task(rewards={"mine": {"_target_": broken, "weight": 0.0}}), "mujoco")
    assert env.rewards.terms == {}


def test_solver_settings_reach_the_model():
    sim = SimCfg(
        timestep=0.004, integrator="euler", solver="cg", iterations=7, ls_iterations=9, cone="elliptic", impratio=2.0
    )
    option = make_env(cartpole_task(sim=sim), "mujoco").scene.model.opt
    assert (option.timestep, option.integrator, option.solver, option.cone) == (0.004, 0, 1, 1)
    assert (option.iterations, option.ls_iterations, option.impratio) == (7, 9, 2.0)
    assert option.gravity.tolist() == [0.0, 0.0, -9.81]


def test_contact_settings_reach_every_geom():
    """Those that are not given stay as the MJCF has them."""
    plain = make_env(kbot_task(), "mujoco").scene.model
    solimp = [0.8, 0.9, 0.01, 0.4, 3.0]
    sim = SimCfg(contact_solref=[0.03, 0.9], contact_solimp=solimp, contact_margin=0.002, gravity=[0.0, 1.0, -3.7])
    model = make_env(kbot_task(sim=sim), "mujoco").scene.model
    assert (model.geom_solref == [0.03, 0.9]).all() and (model.geom_solimp == solimp).all()
    assert (model.geom_margin == 0.002).all() and model.opt.gravity.tolist() == [0.0, 1.0, -3.7]
    assert (plain.geom_margin == 0).all() and (plain.geom_solref != model.geom_solref).any()


@pytest.mark.parametrize(("terrain", "planes"), [("plane", 1), ("none", 0)])
def test_there_is_a_floor_where_the_terrain_is_one(terrain, planes):
    cfg = cartpole_task()
    cfg.scene.terrain = terrain
    model = make_env(cfg, "mujoco").scene.model
    assert np.sum(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) == planes


class Near(eqx.Module):
    """A term that is a class: its fields are the parameters."""

    target: float
    std: float = 1.0

    def __call__(self, ctx):
        return jnp.exp(-((ctx.joint_pos[0] - self.target) ** 2) / self.std**2)


def test_a_term_may_be_a_class():
    player = Player(cartpole_task(rewards={"near": {"_target_": Near, "weight": 1.0, "target": 0.5, "std": 0.4}}))
    state, _ = player.reset(2)
    _, out = player.step(state, np.zeros((2, 1)))
    np.testing.assert_allclose(out.reward, 0.02 * np.exp(-(0.5**2) / 0.4**2), rtol=1e-5)


def test_what_mjx_cannot_do_is_told():
    cfg = cartpole_task(sim=SimCfg(timestep=0.01, integrator="implicit"))
    with pytest.raises(ConfigError, match="physics=mjx: MJX has no .*IMPLICIT"):
        make_env(cfg, "mjx")
