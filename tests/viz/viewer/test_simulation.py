"""The core of every viewer, without a screen."""

import threading
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from support.envs import MDP, kbot_task

from ksim.envs import make_env
from ksim.errors import ConfigError
from ksim.viz.viewer import simulation
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.web.pulling import Pulling

UP = [1.0, 0.0, 0.0, 0.0]


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def shared(clock) -> Simulation:
    task = kbot_task(
        rewards={
            "alive": {"_target_": f"{MDP}.rewards.alive", "weight": 1.0},
            "upright": {"_target_": f"{MDP}.rewards.upright", "weight": 2.0},
        },
        commands={
            "velocity": {
                "_target_": f"{MDP}.commands.uniform",
                "low": [-1.0, -1.0],
                "high": [1.0, 1.0],
                "resampling_time_range_s": [5.0, 5.0],
            }
        },
        terminations={"fallen": {"_target_": f"{MDP}.terminations.bad_orientation", "limit_rad": 1.2}},
    )
    cfg = InteractiveVisualizerConfig(paused=True, plot_window=50)
    return Simulation(make_env(task, "mujoco", 1), cfg, num_envs=2, clock=clock)


@pytest.fixture
def sim(shared):
    """Two robots in their home pose, paused."""
    shared.paused = True
    shared.speed = 1.0
    shared.selected = 0
    shared.suspend(False)
    shared.release()
    shared.reset(all_envs=True)
    shared.initial_pose()
    yield shared
    assert shared.error is None


def test_time_passes_as_the_clock_says_and_not_in_a_pause(sim, clock):
    assert sim.env.step_dt == pytest.approx(0.02)
    before = sim.time_s
    clock.now += 5.0
    assert sim.advance() == 0 and sim.time_s == before
    sim.paused = False
    clock.now += 0.05
    assert sim.advance() == 2
    clock.now += 0.011  # with the rest of before, a third
    assert sim.advance() == 1
    sim.speed = 0.5
    clock.now += 0.04
    assert sim.advance() == 1
    clock.now += 60.0  # a laptop that slept: the time is dropped, not hurried after
    assert sim.advance() <= 3
    sim.paused = True
    time_s = sim.time_s
    sim.step()
    assert sim.time_s == pytest.approx(time_s + sim.env.step_dt)


def test_a_moved_base_is_seen_at_once_and_only_in_the_selected_env(sim):
    before = np.array(sim.pose.qpos)
    sim.move((0.1, -0.2, 0.3))
    np.testing.assert_allclose(sim.pose.qpos[0][:3], before[0][:3] + [0.1, -0.2, 0.3], atol=1e-6)
    np.testing.assert_array_equal(sim.pose.qpos[1], before[1])
    sim.push((0.0, 0.5, 0.0))
    assert sim.pose.qvel[0][1] == pytest.approx(0.5)
    assert sim.paused


def test_rotations_are_rotations(sim):
    """A hundred turns about an axis are the turn by the sum of the angles, as MuJoCo itself computes it."""
    for axis, turn in (([0, 0, 1], "yaw"), ([1, 0, 0], "roll"), ([0, 1, 0], "pitch")):
        sim.initial_pose()
        for _ in range(10):
            sim.move(**{turn: 0.1})
        wanted = np.zeros(4)
        mujoco.mju_axisAngle2Quat(wanted, np.array(axis, float), 1.0)
        np.testing.assert_allclose(sim.pose.qpos[0][3:7], wanted, atol=1e-5)
        assert np.linalg.norm(sim.pose.qpos[0][3:7]) == pytest.approx(1.0, abs=1e-6)


def test_yaw_velocity_is_about_the_vertical_whatever_the_pose(sim):
    sim.move(roll=1.0, pitch=0.4)
    sim.push(yaw=0.7)
    data = mujoco.MjData(sim.model)
    sim.fill(data)
    world = data.xmat[sim.model.body(sim.env.scene.robot.base_body).id].reshape(3, 3) @ sim.pose.qvel[0][3:6]
    np.testing.assert_allclose(world, [0.0, 0.0, 0.7], atol=1e-5)


def test_a_suspended_base_stays_while_the_joints_move(sim):
    sim.move((0.0, 0.0, 0.4), roll=0.3)
    sim.suspend()
    held, joints = np.array(sim.pose.qpos[0][:7]), np.array(sim.pose.qpos[0][7:])
    qvel = np.zeros(sim.model.nv)
    qvel[6:] = 3.0
    sim.place(sim.pose.qpos[0], qvel)
    for _ in range(5):
        sim.step()
        np.testing.assert_array_equal(sim.pose.qpos[0][:7], held)
    assert np.abs(sim.pose.qpos[0][7:] - joints).max() > 0.01
    sim.move((0.1, 0.0, 0.0))
    sim.step()
    assert sim.pose.qpos[0][0] == pytest.approx(held[0] + 0.1, abs=1e-6)
    sim.suspend()
    for _ in range(5):
        sim.step()
    assert sim.pose.qpos[0][2] < held[2] - 0.01


def test_the_initial_pose_keeps_the_place(sim):
    sim.move((1.0, 2.0, -0.5), roll=0.8)
    sim.initial_pose()
    home = sim.env.scene.home_qpos
    np.testing.assert_allclose(sim.pose.qpos[0], [1.0, 2.0, home[2], *UP, *home[7:]], atol=1e-5)
    assert not sim.pose.qvel[0].any()


def test_a_pull_moves_the_body_as_in_mujoco_and_stops_when_it_is_released(sim):
    """Against C MuJoCo's own step of the same state under the same force."""
    model, body = sim.env.scene.model, sim.env.scene.robot.base_body
    sim.move((0.0, 0.0, 1.0))
    sim.pull(body, (0.0, 60.0, 0.0))
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = sim.pose.qpos[0], sim.pose.qvel[0]
    data.xfrc_applied[model.body(body).id, 1] = 60.0
    data.ctrl[:] = sim.env.scene.home_joint_pos[: model.nu]
    for _ in range(4):
        mujoco.mj_step(model, data)
    sim.step()
    np.testing.assert_allclose(sim.pose.qvel[0], data.qvel, atol=1e-4)
    assert sim.pose.qvel[0][1] > 0.04 and abs(sim.pose.qvel[1][1]) < 0.01
    sim.release()
    data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = sim.pose.qpos[0], sim.pose.qvel[0], 0.0
    data.xfrc_applied[:] = 0.0
    for _ in range(4):
        mujoco.mj_step(model, data)
    sim.step()
    np.testing.assert_allclose(sim.pose.qvel[0], data.qvel, atol=1e-4)


def test_a_pull_at_a_point_turns_the_body(sim):
    body = sim.env.scene.robot.base_body
    data = mujoco.MjData(sim.model)
    sim.fill(data)
    at = data.xipos[sim.model.body(body).id] + [0.1, 0.0, 0.0]
    sim.pull(body, (0.0, 10.0, 0.0), at)
    np.testing.assert_allclose(sim.pose.pull[0][sim.model.body(body).id], [0, 10, 0, 0, 0, 1], atol=1e-6)


def test_commands_are_held_drawn_and_let_go(sim):
    drawn = np.array(sim.pose.commands["velocity"])
    sim.set_command("velocity", [0.25, -0.5])
    np.testing.assert_array_equal(sim.pose.commands["velocity"], [[0.25, -0.5], drawn[1]])
    sim.step()
    np.testing.assert_array_equal(sim.pose.commands["velocity"][0], np.float32([0.25, -0.5]))
    sim.next_command()
    assert not np.allclose(sim.pose.commands["velocity"][0], [0.25, -0.5])
    np.testing.assert_array_equal(sim.pose.commands["velocity"][1], drawn[1])
    with pytest.raises(ConfigError, match="velocity"):
        sim.set_command("velocty", [0.0, 0.0])
    with pytest.raises(ConfigError, match="2 elements"):
        sim.set_command("velocity", [0.0])


def test_history_holds_each_reward_and_the_joints(sim):
    sim.history.clear()
    for _ in range(60):
        sim.step()
    times, values = sim.history.read()
    assert len(times) == 50 and np.all(np.diff(times) > 0)
    np.testing.assert_allclose(values["reward/total"], values["reward/alive"] + values["reward/upright"], rtol=1e-4)
    assert values["reward/alive"][-1] == pytest.approx(1.0)
    joint = sim.env.scene.joint_names[0]
    assert values[f"joint/{joint}/position"][-1] == pytest.approx(sim.pose.qpos[0][7], abs=1e-6)
    assert values[f"joint/{joint}/torque"].any()


def test_an_episode_that_ends_begins_anew(sim):
    sim.move(roll=2.0)
    sim.step()
    assert sim.judged.terminated[0] and sim.judged.ends["fallen"][0]
    assert "fallen" in sim.message
    assert sim.history.read(1)[1]["termination/fallen"] == 1.0
    np.testing.assert_allclose(sim.pose.qpos[0][3:7], UP, atol=1e-3)


def test_the_old_suspended_pose_is_a_setting(sim, monkeypatch):
    """A metre up and upright, as K-Scale's earlier ksim had it."""
    monkeypatch.setattr(sim, "cfg", replace(sim.cfg, suspended_pose=[0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0]))
    sim.move((0.5, 0.0, 0.0), roll=0.4)
    sim.suspend()
    np.testing.assert_allclose(sim.pose.qpos[0][:7], [0.0, 0.0, 1.0, *UP], atol=1e-6)
    sim.step()
    np.testing.assert_allclose(sim.pose.qpos[0][:7], [0.0, 0.0, 1.0, *UP], atol=1e-6)


def test_two_clients_at_once_lose_nothing(sim):
    """Each moves the base a hundred times along an axis of its own while the other does."""
    before = np.array(sim.pose.qpos[0][:2])

    def client(axis):
        for _ in range(100):
            sim.move(np.eye(3)[axis] * 0.01)

    threads = [threading.Thread(target=client, args=(axis,)) for axis in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(sim.pose.qpos[0][:2], before + 1.0, atol=1e-4)


def test_a_drag_ends_where_another_env_is_taken_in_hand(sim):
    pulling, body = Pulling(sim), sim.model.body(sim.env.scene.robot.base_body).id
    data = mujoco.MjData(sim.model)
    sim.fill(data)
    pulling.grab(body, data.xpos[body])
    pulling.to(data.xpos[body] + [0.0, 0.3, 0.0])
    pulling.update()
    assert sim.pose.pull[0][body][1] > 1.0
    sim.selected = 1
    pulling.update()
    assert not pulling.is_on and not sim.pose.pull.any()


def test_a_drawing_that_raises_is_left_out_and_told(sim, monkeypatch):
    def broken(*_):
        raise ValueError("no such site")

    monkeypatch.setattr(simulation, "draw", broken)
    monkeypatch.setattr(sim, "_drawn", [("a term", "its drawing")])
    sim.pull("torso", (0.0, 5.0, 0.0))
    assert len(sim.markers()) == 1  # the pull
    assert sim.message == "what terms draw is left out: ValueError: no such site"
