"""Every random number of an env has a key of its own: no two draws, of one term or of two, of one env or of two, at one
time or at two, ever share one."""

import inspect
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from support.envs import MDP, kbot_task
from support.jit import quick_jit

from ksim.config.schema import PatchesCfg
from ksim.envs import make_env
from ksim.mdp import commands, events, randomize

pytestmark = pytest.mark.slow  # every term in one program
E, T = 3, 3
DRAWS = ("uniform", "normal", "randint", "bernoulli")
KNEES, FEET, TORSO = ".*knee.*", ".*collision_capsule.*", "base"
MODES = {"startup": {}, "reset": {}, "step": {}, "interval": {"interval_range_s": [0.02, 0.1]}}
EVENTS = {
    events.reset_root: {"yaw_range": [-1.0, 1.0]},
    events.reset_joints: {"position_range": [-0.01, 0.01], "velocity_range": [-0.01, 0.01]},
    events.start_on_patch: {"spread": 0.01},
    events.push: {"speed": [0.0, 0.1]},
    events.external_force: {"bodies": TORSO, "force_range": [-1.0, 1.0], "duration_range_s": [0.02, 0.1]},
    randomize.friction: {"geoms": FEET, "range": [0.5, 1.5]},
    randomize.gravity: {"range": [-0.1, 0.1]},
    randomize.mass: {"bodies": TORSO, "range": [0.9, 1.1]},
    randomize.centre_of_mass: {"bodies": TORSO, "range": [-0.01, 0.01]},
    randomize.inertia: {"bodies": TORSO, "log_mass_range": [-0.1, 0.1], "shift_range": [-0.01, 0.01]},
    randomize.armature: {"range": [0.9, 1.1]},
    randomize.friction_loss: {"range": [0.0, 0.01], "operation": "set"},
    randomize.gains: {"joints": KNEES, "kp_range": [0.9, 1.1], "kd_range": [0.9, 1.1]},
    randomize.torque_limit: {"joints": KNEES, "range": [0.9, 1.1]},
    randomize.encoder_bias: {"range": [-0.01, 0.01]},
    randomize.imu_mount: {"position_range": [-0.01, 0.01], "tilt_range": [-0.01, 0.01]},
}
NOISE = {"type": "uniform", "low": -0.01, "high": 0.01}
NORMAL = {"type": "gaussian", "std": 0.01}
DELAY = {"range_s": [0.0, 0.04], "hold_probability": 0.5}


def target(function):
    return f"{function.__module__}.{function.__name__}"


def every_event():
    """Each event in each mode that it may have, and one that is global."""
    found = {}
    for function, params in EVENTS.items():
        modes = ("interval", "step") if inspect.isclass(function) else MODES
        for mode in modes:
            found[f"{function.__name__}_{mode}"] = {"_target_": target(function), "mode": mode} | params | MODES[mode]
    found["everywhere"] = found["gravity_interval"] | {"is_global": True}
    return found


def observed(noise):
    term = {"noise": noise, "bias": noise, "delay": DELAY}
    return {name: {"_target_": f"{MDP}.observations.{name}"} | term for name in ("joint_pos", "joint_vel")}


def every_draw():
    """A task in which everything that can draw does."""
    task = kbot_task(
        actions={
            side: {
                "_target_": f"{MDP}.actions.joint_position",
                "joints": f".*{side}_(hip|knee).*",
                "delay": {"range_s": [0.0, 0.02], "hold_probability": 0.5},
            }
            for side in ("left", "right")
        },
        observations={
            group: {"terms": observed(noise), "enable_corruption": True}
            for group, noise in (("actor", NOISE), ("critic", NORMAL))
        },
        commands={
            "twist": {
                "_target_": f"{MDP}.commands.uniform_velocity",
                "resampling_time_range_s": [0.02, 0.06],
                "x_range": [-1.0, 1.0],
                "y_range": [-1.0, 1.0],
                "yaw_rate_range": [-1.0, 1.0],
                "heading_share": 0.5,
                "standing_share": 0.5,
            },
            "goal": {
                "_target_": f"{MDP}.commands.uniform",
                "resampling_time_range_s": [0.02, 0.06],
                "low": [0.0, 0.0],
                "high": [1.0, 1.0],
            },
            "gait": {"_target_": f"{MDP}.commands.gait_clock", "resampling_time_range_s": [0.02, 0.06]},
        },
        events=every_event(),
        terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
        episode_length_s=0.06,
    )
    hills = {"hill": {"_target_": f"{MDP}.terrains.slope", "columns": 3}}
    task.scene.terrain, task.scene.patches = "patches", PatchesCfg(kinds=hills, spacing=0.5)
    return task


@pytest.fixture(scope="module")
def consumed():
    """Of a reset at random ages and some steps of 3 envs: the keys that were drawn from, each with the line that drew;
    keys that others were split off; and which envs were reset."""
    drawn, split = [], []
    root = str(Path(inspect.getfile(make_env)).parents[1])

    def site():
        frame = sys._getframe(2)
        while not frame.f_code.co_filename.startswith(root) or frame.f_code.co_name == "uniform":
            frame = frame.f_back
        return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"

    def recording(original, into):
        def record(key, *args, **kwargs):
            where = site()
            jax.debug.callback(lambda data: into.append((np.asarray(data).tobytes(), where)), jax.random.key_data(key))
            return original(key, *args, **kwargs)

        return record

    env = make_env(every_draw(), "mujoco", 1)
    with pytest.MonkeyPatch.context() as patch:
        for name in DRAWS:
            patch.setattr(jax.random, name, recording(getattr(jax.random, name), drawn))
        patch.setattr(jax.random, "split", recording(jax.random.split, split))
        state, _ = quick_jit(env.reset, static_argnums=1, static_argnames="random_age")(
            jax.random.key(0), E, random_age=True
        )
        step, done = quick_jit(env.step), []
        for _ in range(T):
            state, out = step(state, np.zeros((E, env.action_size), np.float32))
            done.append(np.asarray(out.done))
        jax.effects_barrier()
    return drawn, split, np.stack(done)


def test_every_term_that_draws_is_there():
    """Each function of these modules that takes a key, so that a new one is added here."""

    def draws(x):
        call = x.__call__ if inspect.isclass(x) else x
        of = (x.init, call) if hasattr(x, "init") else (call,)
        return any("key" in inspect.signature(f).parameters for f in of)

    for module, known in (
        (events, EVENTS),
        (randomize, EVENTS),
        (commands, (commands.uniform_velocity, commands.gait_clock, commands.uniform)),
    ):
        own = [
            x for n, x in vars(module).items() if (not n.startswith("_") and inspect.isroutine(x)) or inspect.isclass(x)
        ]
        own = [x for x in own if x.__module__ == module.__name__ and draws(x)]
        assert own and set(own) - set(known) <= {events.reset_scene_to_default}


def test_no_two_draws_share_a_key(consumed):
    drawn, _, done = consumed
    lines = {}
    for key, where in drawn:
        lines.setdefault(key, []).append(where)
    shared = Counter(" and ".join(sorted(where)) for where in lines.values() if len(where) > 1)
    assert not shared, f"these draw from one key: {dict(shared)}"
    assert done.any() and not done.all(axis=1).any()


def test_no_key_is_drawn_from_that_others_come_from(consumed):
    drawn, split, _ = consumed
    parents = {key for key, _ in split}
    assert not {where for key, where in drawn if key in parents}


def test_every_kind_of_draw_was_seen(consumed):
    """In each file that draws, in each env and each step."""
    drawn, _, _ = consumed
    files = Counter(where.partition(":")[0] for _, where in drawn)
    assert set(files) >= {"events.py", "randomize.py", "commands.py", "noise.py", "timers.py", "delay.py", "env.py"}
    assert min(files.values()) >= E and files["randomize.py"] >= 4 * 11 * E
