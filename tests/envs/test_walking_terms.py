"""A walking task's worth of terms in one env: every kind together, on both engines."""

import numpy as np
import pytest
from support.envs import MDP, Player, kbot_task

from ksim.config.schema import SceneCfg
from ksim.envs import make_env

FEET = {"_target_": f"{MDP}.sensors.contact", "bodies": ".*FootBushing.*", "against": "floor", "track_time": True}
TWIST = {
    "_target_": f"{MDP}.commands.uniform_velocity",
    "resampling_time_range_s": [1.0, 2.0],
    "x_range": [0.3, 1.0],
    "y_range": [-0.3, 0.3],
    "yaw_rate_range": [-1.0, 1.0],
}
OF_FEET = {"sensor": "feet"}
TO_TWIST = {"command": "twist"}


def terms(module: str, weight: bool = False, **params):
    """name=parameters, as a task has them."""
    extra = {"weight": 1.0} if weight else {}
    return {name: {"_target_": f"{MDP}.{module}.{name}", **extra, **given} for name, given in params.items()}


def task():
    cfg = kbot_task(
        commands={"twist": TWIST},
        observations={
            "actor": {
                "terms": terms("observations", phase={"period_s": 0.8}, command={"name": "twist"}, contacts=OF_FEET)
            },
            "critic": {
                "terms": terms("observations", contact_force=OF_FEET, air_time=OF_FEET, heights={"bodies": ".*Foot.*"})
            },
        },
        rewards=terms(
            "rewards",
            weight=True,
            track_lin_vel=TO_TWIST,
            track_ang_vel=TO_TWIST,
            orientation={},
            base_lin_vel_z={},
            posture={"std": {".*": 0.5, ".*knee.*": 1.0}},
            stand_still=TO_TWIST,
            asymmetry={},
            joint_acc={},
            joint_limits={},
            action_rate_rate={},
            power={},
            feet_air_time=OF_FEET | TO_TWIST,
            feet_slip=OF_FEET,
            feet_clearance=OF_FEET | TO_TWIST | {"height": 0.1},
            contact_force=OF_FEET | {"limit": 300.0},
        ),
        metrics=terms("metrics", lin_vel_error=TO_TWIST, yaw_rate_error=TO_TWIST, contact_share=OF_FEET),
    )
    cfg.scene = SceneCfg(num_envs=2, robot="kbot", sensors={"feet": FEET})
    return cfg


@pytest.mark.parametrize("engine", ["mujoco", "mjx"])
def test_engines_compute_all_that_terms_read(engine):
    env = make_env(task(), engine, 1)
    assert env.obs_sizes["actor"] == {"phase": 2, "command": 3, "contacts": 2}
    assert env.obs_sizes["critic"] == {"contact_force": 2, "air_time": 2, "heights": 2}


def test_what_they_say_of_a_robot_that_stands():
    player = Player(task())
    out = player.play(np.zeros((15, 2, 20)))[-1].out
    rates = {name.removeprefix("reward/"): x for name, x in out.episode.items() if name.startswith("reward/")}
    assert len(rates) == 15 and all(np.isfinite(x).all() for x in rates.values())
    assert all((rates[name] > 0).all() for name in ("track_lin_vel", "track_ang_vel", "posture"))
    for name in ("stand_still", "feet_air_time", "joint_limits", "action_rate_rate"):
        np.testing.assert_array_equal(rates[name], 0)  # it is asked to walk, and stays where it is
    np.testing.assert_array_equal(out.obs["actor"][:, -2:], 1)  # on both feet, which carry it
    weight = player.env.scene.model.body_mass.sum() * 9.81
    np.testing.assert_allclose(out.obs["critic"][:, :2].sum(axis=1), weight, rtol=0.3)
