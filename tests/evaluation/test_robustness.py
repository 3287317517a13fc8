"""The robustness table: each perturbation changes what it says, and nothing else."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import plain
from support.jit import quick_jit
from support.runs import SMALL

from ksim.config.compose import compose, with_overrides
from ksim.config.schema import Config
from ksim.errors import ConfigError
from ksim.evaluation.robustness import DEFAULTS, perturbations, scaled_friction
from ksim.training.experiment import build


@pytest.fixture(scope="module")
def kbot() -> Config:
    return compose([o for o in SMALL if not o.startswith("task")] + ["task=kbot_standing"])


@pytest.fixture(scope="module")
def written(kbot) -> dict[str, tuple[str, ...]]:
    return build(kbot).env.events.written


def overridden(cfg: Config, **asked: list[float]):
    (row,) = perturbations(cfg, asked, False, build(cfg).env.events.written)
    return build(with_overrides(cfg, row.overrides)).env


def test_friction_and_mass_are_scaled_in_every_env(kbot):
    plain = build(kbot).env.scene.model
    env = overridden(kbot, friction=[0.5])
    state, _ = env.reset(jax.random.key(0), 2)
    friction = np.asarray(state.envs.model_fields["geom_friction"])
    np.testing.assert_allclose(friction[:, :, 0], 0.5 * np.tile(plain.geom_friction[:, 0], (2, 1)), rtol=1e-6)
    env = overridden(kbot, mass=[1.2])
    state, _ = env.reset(jax.random.key(0), 2)
    mass = np.asarray(state.envs.model_fields["body_mass"])
    np.testing.assert_allclose(mass.sum(axis=1), 1.2 * plain.body_mass.sum(), rtol=1e-5)


def test_latency_delays_every_action(kbot, written):
    (row,) = perturbations(kbot, {"latency_s": [0.02]}, False, written)
    cfg = with_overrides(kbot, row.overrides)
    assert cfg.task.actions["legs"]["delay"] == {"range_s": [0.02, 0.02], "hold_probability": 1.0}
    assert row.replaces == ()
    own = with_overrides(kbot, ["+task.actions.legs.delay={range_s: [0.0, 0.04], hold_probability: 0.5}"])
    (row,) = perturbations(own, {"latency_s": [0.01]}, False, written)
    assert row.replaces == ("actions.legs.delay",)
    delay = with_overrides(own, row.overrides).task.actions["legs"]["delay"]
    assert delay == {"range_s": [0.01, 0.01], "hold_probability": 1.0}


def test_a_latency_that_would_be_rounded_is_refused(kbot, written):
    with pytest.raises(ConfigError, match=r"0.012 s is no whole number of physics steps of 0.005 s; 0.01 would be"):
        perturbations(kbot, {"latency_s": [0.012]}, False, written)
    slow = with_overrides(kbot, ["task.sim.timestep=0.015"])
    rows = perturbations(slow, {"friction": [], "mass": [], "push": []}, True, written)
    assert [row.value for row in rows] == [0.015]


MODES = ["startup", "reset", "interval", "step"]
EVERY = "interval_range_s: [0.02, 0.04]"


def event(what: str, mode: str) -> str:
    return f"+task.events.own={{{what}, mode: {mode}{', ' + EVERY if mode == 'interval' else ''}}}"


def played(cfg: Config, row) -> dict[str, np.ndarray]:
    """The fields that differ between 3 envs, at every step of episodes that last two, (T, E, ...)."""
    env = build(with_overrides(cfg, [*row.overrides, "task.episode_length_s=0.04"])).env
    state, _ = quick_jit(env.reset, static_argnums=1)(jax.random.key(0), 3)
    step, seen = quick_jit(env.step), [state.envs.model_fields]
    for _ in range(4):
        state, _ = step(state, jnp.zeros((3, env.action_size)))
        seen.append(state.envs.model_fields)
    return {name: np.stack([fields[name] for fields in seen]) for name in seen[0]}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_row_plays_what_it_says_whatever_the_task_draws(kbot, mode):
    """Friction of a task that sets its own in each mode: every env, at every step, with resets between."""
    own = "_target_: ksim.mdp.randomize.friction, geoms: '.*', range: [0.8, 1.2], operation: set"
    cfg = with_overrides(kbot, [event(own, mode)])
    env = build(cfg).env
    (row,) = perturbations(cfg, {"friction": [0.5]}, False, env.events.written)
    friction = played(cfg, row)["geom_friction"]
    expected = env.scene.model.geom_friction * [0.5, 1.0, 1.0]
    np.testing.assert_allclose(friction, np.broadcast_to(expected, friction.shape), rtol=1e-6)
    assert row.replaces == ("events.own",)


MASS = "mass, bodies: pole, range: [0.5, 2.0]"
INERTIA = "inertia, bodies: pole, log_mass_range: [-0.5, 0.5], log_stretch_range: [-0.1, 0.1]"


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "what"), [*zip(MODES, [MASS, INERTIA, MASS, INERTIA], strict=True)])
def test_a_row_of_masses_plays_what_it_says(mode, what):
    """And so do the constants that follow from them, and the inertia that another event changes."""
    cfg = compose([*SMALL, event(f"_target_: ksim.mdp.randomize.{what}", mode)])
    env = build(cfg).env
    (row,) = perturbations(cfg, {"mass": [0.8]}, False, env.events.written)
    assert row.replaces == ("events.own",)
    values = played(cfg, row)
    for field in ("body_mass", "body_inertia", "body_subtreemass"):
        expected = np.broadcast_to(getattr(env.scene.model, field) * 0.8, values[field].shape)
        np.testing.assert_allclose(values[field], expected, rtol=1e-5, err_msg=field)


@pytest.mark.parametrize("mode", ["interval", "step"])
def test_no_other_force_acts_in_a_row_of_pushes(kbot, mode):
    own = "_target_: ksim.mdp.events.external_force, bodies: base, force_range: [-50, 50], duration_range_s: [0.1, 0.2]"
    cfg = with_overrides(kbot, [event(own, mode)])
    written = build(cfg).env.events.written
    (row,) = perturbations(cfg, {"push": [0.0]}, False, written)
    assert row.replaces == ("events.push", "events.own")
    left = build(with_overrides(cfg, row.overrides)).env.events
    writers = [name for name, fields in left.written.items() if {"qvel", "xfrc_applied"} & set(fields)]
    assert [name for name in writers if left.terms[name].settings.mode != "reset"] == ["robustness"]


def test_friction_scales_unnamed_geoms_and_explicit_pairs_too():
    """Against the contacts that C MuJoCo finds: geom on geom, and a pair with a friction of its own."""
    xml = """
    <mujoco>
      <worldbody>
        <geom type="plane" size="1 1 1" friction="0.7"/>
        <body pos="0 0 0.09"><freejoint/><geom size="0.1" friction="0.9"/></body>
        <body pos="1 0 0.09"><freejoint/><geom name="ball" size="0.1"/></body>
        <body pos="1 0 0.27"><freejoint/><geom name="top" size="0.1"/></body>
      </worldbody>
      <contact><pair geom1="ball" geom2="top" friction="0.3 0.4 0.005 0.0001 0.0001"/></contact>
    </mujoco>
    """
    model = mujoco.MjModel.from_xml_string(xml)

    def frictions(model):
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        return np.array(data.contact.friction)

    before = frictions(model)
    assert sorted(before[:, 0]) == [0.3, 0.9, 1.0]
    ctx = SimpleNamespace(scene=SimpleNamespace(model=model))
    after = frictions(plain.edited(model, **scaled_friction(ctx, None, factor=0.5)))
    np.testing.assert_allclose(after, before * [0.5, 0.5, 1, 1, 1], rtol=1e-6)


def test_a_push_takes_the_place_of_the_tasks_own(kbot, written):
    (row,) = perturbations(kbot, {"push": [0.4]}, False, written)
    events = {name: term for name, term in with_overrides(kbot, row.overrides).task.events.items() if term}
    pushes = [term for term in events.values() if term["_target_"].endswith("push")]
    assert [(p["speed"], p["interval_range_s"]) for p in pushes] == [(0.4, [3.0, 6.0])]
    assert set(events) - {"robustness"} == set(kbot.task.events) - {"push"}


def test_a_curriculum_of_the_tasks_own_push_goes_with_it(kbot, written):
    curriculum = "{_target_: ksim.mdp.curriculum.linear, sets: events.push.speed, start: 0.0, end: 0.6, num_steps: 10}"
    cfg = with_overrides(kbot, [f"+task.curriculum.push={curriculum}"])
    (row,) = perturbations(cfg, {"push": [0.4]}, False, written)
    assert with_overrides(cfg, row.overrides).task.curriculum == {"push": None}
    with pytest.raises(
        ConfigError, match=r"^task\.events\.push\.speed: task\.curriculum\.push sets it, .*=null it counts"
    ):
        with_overrides(cfg, ["task.events.push.speed=0.5"])


def test_the_default_rows_suit_the_robot(kbot, written):
    rows = perturbations(kbot, {}, True, written)
    assert [(row.name, row.value) for row in rows] == [(name, v) for name, vs in DEFAULTS.items() for v in vs]
    cartpole = compose(SMALL)
    assert {row.name for row in perturbations(cartpole, {"mass": [0.5]}, True, {"reset_scene_to_default": ()})} == {
        "mass",
        "latency_s",
    }
    assert perturbations(kbot, {}, False, written) == []
    assert dataclasses.asdict(rows[0])["value"] == 0.5
