"""What goes wrong while a person watches."""

import pytest
from support.envs import MDP, kbot_task

from ksim.envs import make_env
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.simulation import Simulation


@pytest.mark.slow
def test_a_term_that_raises_pauses_and_is_named_and_it_goes_on_after_a_remedy():
    rewards = {
        "alive": {"_target_": f"{MDP}.rewards.alive", "weight": 1.0},
        "height": {"_target_": "support.raising.too_low", "weight": 1.0, "height": 0.5},
    }
    sim = Simulation(make_env(kbot_task(rewards=rewards), "mujoco", 1), InteractiveVisualizerConfig())
    sim.step()
    assert sim.error is None and sim.time_s > 0
    time_s = sim.time_s
    sim.move((0.0, 0.0, -0.4))
    sim.step()
    assert sim.paused and sim.time_s == time_s
    assert sim.error.startswith("task.rewards.height: ValueError: the base is at 0.3")
    assert "\n" not in sim.error and len(sim.error) < 120
    sim.paused = False
    sim.initial_pose()
    sim.step()
    assert sim.error is None and sim.time_s > time_s and not sim.paused
