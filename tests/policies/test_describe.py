"""What a policy says about itself, against the robot's table and MuJoCo's model."""

import json

import equinox as eqx
import jax
import mujoco
import numpy as np
import pytest
import yaml

from ksim.policies.describe import describe
from ksim.robots import loader
from ksim.store import files
from ksim.training.experiment import build


def described(cfg):
    experiment = build(cfg)
    state = eqx.filter_eval_shape(experiment.algorithm.init, experiment.env, jax.random.key(0))
    return json.loads(files.json_bytes(describe(experiment.cfg, experiment.env, experiment.algorithm.policy(state))))


@pytest.fixture(scope="module")
def kbot(composed):
    return described(composed["kbot_standing"])


@pytest.fixture(scope="module")
def table():
    return yaml.safe_load((loader._HERE / "kbot" / "robot.yaml").read_text())


def test_joints_are_those_of_the_table_in_its_order(kbot, table):
    assert [joint["name"] for joint in kbot["joints"]] == list(table["joints"])
    for joint in kbot["joints"]:
        row = table["joints"][joint["name"]]
        assert joint["home"] == table["home"]["joint_pos"][joint["name"]]
        assert joint["control"] == "position"
        assert {key: joint[key] for key in ("kp", "kd", "torque_limit")} == {
            key: row[key] for key in ("kp", "kd", "torque_limit")
        }
        assert joint["armature"] == row["armature"]


def test_an_action_unit_is_the_offset_of_full_torque_around_home(kbot, table):
    (legs,) = kbot["actions"]
    assert legs["law"].startswith("target = clip(offset + scale * action, lower, upper)")
    assert len(legs["joints"]) == 10 and not any("shoulder" in name for name in legs["joints"])
    rows = [table["joints"][name] for name in legs["joints"]]
    np.testing.assert_allclose(legs["scale"], [row["torque_limit"] / row["kp"] for row in rows])
    assert legs["offset"] == [table["home"]["joint_pos"][name] for name in legs["joints"]]
    model = mujoco.MjModel.from_xml_path(str(loader._HERE / "kbot" / "kbot.xml"))
    ranges = [model.joint(name).range for name in legs["joints"]]
    np.testing.assert_allclose(np.transpose([legs["lower"], legs["upper"]]), ranges, atol=1e-9)


def test_time_and_the_base(kbot, table):
    assert kbot["step_dt"] == pytest.approx(kbot["decimation"] * kbot["simulation"]["timestep"])
    assert kbot["base"] == {"body": "base", "home_pos": table["home"]["base_pos"], "home_quat": [1, 0, 0, 0]}
    assert (kbot["task"], kbot["robot"], kbot["commands"]) == ("kbot_standing", "kbot", [])


def test_the_imu_is_turned_as_the_table_says(kbot):
    turned = np.zeros(3)
    mujoco.mju_rotVecQuat(turned, np.array([1.0, 0.0, 0.0]), np.array(kbot["imu"]["quat"]))
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-3)  # "its x axis is the robot's left"


def test_observations_say_what_they_are(kbot):
    actor = {term["name"]: term for term in kbot["observations"]["actor"]}
    assert [(name, term["size"]) for name, term in actor.items()] == [
        ("gravity", 3),
        ("ang_vel", 3),
        ("joint_pos", 20),
        ("joint_vel", 20),
        ("last_action", 10),
    ]
    assert actor["gravity"] == {
        "name": "gravity",
        "size": 3,
        "description": "Direction of gravity in the base's frame, (0, 0, -1) when upright; as the inertial sensor"
        " measures it, or as it is.",
        "function": "ksim.mdp.observations.projected_gravity",
        "parameters": {"measured": True},
        "history": 1,
        "noise": {"type": "uniform", "low": -0.01, "high": 0.01, "operation": "add"},
    }
    assert actor["joint_vel"]["joints"] == [joint["name"] for joint in kbot["joints"]]


def test_delay_and_history(cartpole_cfg):
    group = cartpole_cfg.task.observations["actor"]
    noise = {"type": "gaussian", "std": 0.1}
    group["terms"]["joint_pos"] |= {"bias": noise, "noise": noise, "history": 3, "delay": {"range_s": [0.0, 0.1]}}
    found = described(cartpole_cfg)
    joint_pos, joint_vel = found["observations"]["actor"]
    assert (joint_pos["size"], joint_pos["history"]) == (6, 3) and joint_vel["history"] == 1
    assert joint_pos["delay"] == {"range_s": [0.0, 0.1], "hold_probability": 1.0}
    assert "noise" not in joint_pos and "bias" not in joint_pos  # this group's corruption is off
    group |= {"enable_corruption": True, "history": 2, "delay": {"range_s": [0.02, 0.02]}}
    joint_pos, joint_vel = described(cartpole_cfg)["observations"]["actor"]
    assert joint_pos["bias"] == joint_pos["noise"] == noise | {"operation": "add"}
    assert (joint_vel["size"], joint_vel["history"], joint_vel["delay"]["range_s"]) == (4, 2, [0.02, 0.02])


def test_commands(kbot_cfg):
    ranges = {f"{name}_range": [-1.0, 1.0] for name in ("x", "y", "yaw_rate")}
    velocity = {"_target_": "ksim.mdp.commands.uniform_velocity", "resampling_time_range_s": [1.0, 2.0], **ranges}
    kbot_cfg.task.commands = {"velocity": velocity}
    terms = kbot_cfg.task.observations["actor"]["terms"]
    terms["goal"] = {"_target_": "ksim.mdp.observations.command", "name": "velocity"}
    found = described(kbot_cfg)
    goal = found["observations"]["actor"][-1]
    assert goal["size"] == 3 and goal["parameters"] == {"name": "velocity"}
    (command,) = found["commands"]
    assert command["name"] == "velocity" and command["description"].startswith("Velocity of the base over the floor")
    assert command["parameters"]["x_range"] == [-1.0, 1.0] and command["parameters"]["heading_gain"] == 0.5


def test_actions_that_are_clipped_late_or_filtered_say_so(cartpole_cfg):
    (name,) = cartpole_cfg.task.actions
    plain = described(cartpole_cfg)["actions"][0]
    assert not {"clip", "delay", "low_pass_hz"} & set(plain)
    cartpole_cfg.task.actions[name] |= {"clip": [-2.0, 2.0], "delay": {"range_s": [0.0, 0.01]}, "low_pass_hz": 20.0}
    found = described(cartpole_cfg)["actions"][0]
    assert (found["clip"], found["delay"]["range_s"], found["low_pass_hz"]) == ([-2, 2], [0, 0.01], 20)


def test_clips_scales_and_passive_joints(cartpole_cfg):
    terms = cartpole_cfg.task.observations["actor"]["terms"]
    terms["joint_vel"] |= {"clip": [-5.0, 5.0], "scale": [0.5, 0.1], "joints": "hinge|slider"}
    terms["force"] = {"_target_": "ksim.mdp.observations.actuator_force"}
    cartpole_cfg.task.actions["force"] = {"_target_": "ksim.mdp.actions.joint_velocity", "scale": 2.0}
    found = described(cartpole_cfg)
    _, joint_vel, force = found["observations"]["actor"]
    assert (joint_vel["clip"], joint_vel["scale"], joint_vel["joints"]) == ([-5, 5], [0.5, 0.1], ["slider", "hinge"])
    assert (force["size"], force["joints"]) == (1, ["slider"])
    assert found["joints"][1] == {"name": "hinge", "home": 0.0}
    assert found["joints"][0]["control"] == "velocity"
    assert found["actions"][0]["lower"] == [None] and found["actions"][0]["scale"] == [2.0]
    assert found["base"] is None and found["imu"] is None and found["policy"]["mirror"] is None
