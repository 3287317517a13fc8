"""What a person does to an env, on each engine."""

import numpy as np
import pytest
from support.envs import cartpole_task

from ksim.envs import make_env
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.simulation import Simulation


@pytest.mark.slow
def test_a_pull_is_the_same_force_on_both_engines():
    """5 N on the cart of 1 kg with its pole of 0.1 kg, for a tenth of a second."""
    found = []
    for engine in ("mujoco", "mjx"):
        sim = Simulation(make_env(cartpole_task(), engine, 1), InteractiveVisualizerConfig(paused=True))
        sim.place([0.0, 0.0], [0.0, 0.0])
        sim.pull("cart", (5.0, 0.0, 0.0))
        for _ in range(5):
            sim.step()
        assert sim.error is None
        found.append(np.array([*sim.pose.qpos[0], *sim.pose.qvel[0]]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert 0.3 < found[0][2] < 0.6
