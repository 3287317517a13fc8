"""The table of a task: everything that a person checks before a long run is in it."""

import io

import pytest
from rich.console import Console
from support.envs import MDP, cartpole_task, kbot_task

from ksim.config.schema import SceneCfg
from ksim.envs import make_env
from ksim.envs.table import describe
from ksim.envs.table import text as table_text

FEET = ".*FootBushing.*"


@pytest.fixture(scope="module")
def rows():
    """The printed lines, split at the columns' borders."""
    gravity = {"_target_": f"{MDP}.observations.projected_gravity", "history": 3}
    noise = {"type": "uniform", "low": -0.01, "high": 0.01}
    cfg = kbot_task(
        actions={
            "knees": {
                "_target_": f"{MDP}.actions.joint_position",
                "joints": ".*knee.*",
                "scale": 0.3,
                "delay": {"range_s": [0.0, 0.01]},
            }
        },
        observations={
            "actor": {
                "terms": {"gravity": gravity, "joints": {"_target_": f"{MDP}.observations.joint_pos", "noise": noise}},
                "enable_corruption": True,
            }
        },
        rewards={
            "feet": {"_target_": f"{MDP}.rewards.bodies_still", "weight": 1.5, "bodies": FEET},
            "upright": {"_target_": f"{MDP}.rewards.upright", "weight": 1.0},
        },
        terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
        events={
            "push": {
                "_target_": f"{MDP}.events.push",
                "mode": "interval",
                "interval_range_s": [3.0, 6.0],
                "speed": 0.5,
            },
            "friction": {
                "_target_": f"{MDP}.randomize.friction",
                "mode": "startup",
                "geoms": "LFoot.*|floor",
                "range": [0.5, 1.5],
            },
        },
        curriculum={
            "speed": {
                "_target_": f"{MDP}.curriculum.linear",
                "sets": "events.push.speed",
                "start": 0.0,
                "end": 1.0,
                "num_steps": 1000,
            }
        },
        episode_length_s=5.0,
    )
    sensor = {"_target_": f"{MDP}.sensors.contact", "bodies": FEET}
    cfg.scene = SceneCfg(num_envs=4, robot="kbot", sensors={"touch": sensor})
    out = io.StringIO()
    Console(file=out, width=400).print(describe(make_env(cfg, "mujoco")))
    return [[cell.strip() for cell in line.split("│")] for line in out.getvalue().splitlines()]


def row(rows, *start):
    found = [cells for cells in rows if cells[1 : 1 + len(start)] == list(start)]
    assert found, start
    return found[0]


def test_groups_have_their_switches_and_sizes(rows):
    assert any("observations.actor (29): enable_corruption=True" in cells[0] for cells in rows)
    assert row(rows, "gravity")[2:5] == ["9", "observations.projected_gravity", "history=3"]
    assert row(rows, "joints")[4] == "noise=(type=uniform low=-0.01 high=0.01)"


def test_names_are_resolved_to_ids(rows):
    knees = row(rows, "knees")
    assert knees[2] == "2" and knees[4] == "delay=(range_s=[0, 0.01])"
    assert "joints=.*knee.* → dof_left_knee_04 (" in knees[5] and "dof_right_knee_04 (" in knees[5]
    assert "LFootBushing_GPF_1517_12 (7), RFootBushing_GPF_1517_12 (12)" in row(rows, "feet")[4]
    assert row(rows, "touch")[2] == "2"


def test_weights_modes_and_curricula_are_told(rows):
    assert row(rows, "feet")[3] == "weight=1.5"
    assert row(rows, "push")[3] == "mode=interval interval_range_s=[3, 6]"
    assert row(rows, "push")[4] == "speed=curriculum.speed"
    assert row(rows, "speed")[3] == "sets=events.push.speed"
    assert row(rows, "time_out")[2] == "truncates"
    assert row(rows, "reset_scene_to_default")[3] == "mode=reset"
    assert row(rows, "geom_friction")[2] == "events.friction"


def test_of_actuated_joints_only_those_are_shown_that_the_term_reads():
    joints = {"joints": "slider|hinge", "weight": 1.0}
    rewards = {name: {"_target_": f"{MDP}.rewards.{name}"} | joints for name in ("torque", "joint_vel")}
    text = table_text(make_env(cartpole_task(rewards=rewards), "mujoco"), 200)
    (torque,), (velocity,) = ([x for x in text.splitlines() if f"rewards.{n}" in x] for n in ("torque", "joint_vel"))
    assert "→ slider (0) " in torque and "hinge (" not in torque
    assert "→ slider (0), hinge (1)" in velocity
