"""The robustness table: each perturbation changes what it says, and nothing else."""

import dataclasses

import jax
import numpy as np
import pytest
from support.runs import SMALL

from ksim.config.compose import compose, with_overrides
from ksim.config.schema import Config
from ksim.errors import ConfigError
from ksim.evaluation.robustness import DEFAULTS, perturbations
from ksim.training.experiment import build


@pytest.fixture(scope="module")
def kbot() -> Config:
    return compose([o for o in SMALL if not o.startswith("task")] + ["task=kbot_standing"])


def overridden(cfg: Config, **asked: list[float]):
    (row,) = perturbations(cfg, asked, False)
    return build(with_overrides(cfg, row.overrides)).env


def test_friction_and_mass_are_scaled_in_every_env(kbot):
    plain = build(kbot).env.scene.model
    env = overridden(kbot, friction=[0.5])
    state, _ = env.reset(jax.random.key(0), 2)
    friction = np.asarray(state.model_fields["geom_friction"])
    np.testing.assert_allclose(friction[:, :, 0], 0.5 * np.tile(plain.geom_friction[:, 0], (2, 1)), rtol=1e-6)
    env = overridden(kbot, mass=[1.2])
    state, _ = env.reset(jax.random.key(0), 2)
    mass = np.asarray(state.model_fields["body_mass"])
    np.testing.assert_allclose(mass.sum(axis=1), 1.2 * plain.body_mass.sum(), rtol=1e-5)


def test_latency_delays_every_action(kbot):
    (row,) = perturbations(kbot, {"latency_s": [0.02]}, False)
    cfg = with_overrides(kbot, row.overrides)
    assert cfg.task.actions["legs"]["delay"] == {"range_s": [0.02, 0.02]}


def test_a_push_takes_the_place_of_the_tasks_own(kbot):
    (row,) = perturbations(kbot, {"push": [0.4]}, False)
    events = {name: term for name, term in with_overrides(kbot, row.overrides).task.events.items() if term}
    pushes = [term for term in events.values() if term["_target_"].endswith("push")]
    assert [(p["speed"], p["interval_range_s"]) for p in pushes] == [(0.4, [3.0, 6.0])]
    assert set(events) - {"robustness"} == set(kbot.task.events) - {"push"}


def test_a_curriculum_of_the_tasks_own_push_goes_with_it(kbot):
    curriculum = "{_target_: ksim.mdp.curriculum.linear, sets: events.push.speed, start: 0.0, end: 0.6, num_steps: 10}"
    cfg = with_overrides(kbot, [f"+task.curriculum.push={curriculum}"])
    (row,) = perturbations(cfg, {"push": [0.4]}, False)
    assert with_overrides(cfg, row.overrides).task.curriculum == {"push": None}
    with pytest.raises(
        ConfigError, match=r"^task\.events\.push\.speed: task\.curriculum\.push sets it, .*=null it counts"
    ):
        with_overrides(cfg, ["task.events.push.speed=0.5"])


def test_the_default_rows_suit_the_robot(kbot):
    rows = perturbations(kbot, {}, True)
    assert [(row.name, row.value) for row in rows] == [(name, v) for name, vs in DEFAULTS.items() for v in vs]
    cartpole = compose(SMALL)
    assert {row.name for row in perturbations(cartpole, {"mass": [0.5]}, True)} == {"mass", "latency_s"}
    assert perturbations(kbot, {}, False) == []
    assert dataclasses.asdict(rows[0])["value"] == 0.5
