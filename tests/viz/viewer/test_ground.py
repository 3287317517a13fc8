"""Poses that a person asks for, on uneven ground."""

from types import SimpleNamespace

import mujoco
import numpy as np
from support.envs import MDP, kbot_task

from ksim.config.schema import PatchesCfg
from ksim.envs import make_env
from ksim.viz.viewer.envs_in_hand import EnvsInHand


def test_the_home_pose_stands_on_the_ground_wherever_it_is():
    """No foot below it, as C MuJoCo finds contacts, and one of them near it."""
    task = kbot_task()
    task.scene.terrain = "patches"
    kinds = {"stairs": {"_target_": f"{MDP}.terrains.stairs"}, "rough": {"_target_": f"{MDP}.terrains.rough"}}
    task.scene.patches = PatchesCfg(kinds=kinds, levels=2, size=4.0)
    env = make_env(task, "mujoco", 1)
    hand = SimpleNamespace(_base=env.scene.base_qpos_adr, env=env)
    model, data, rng = env.scene.model, mujoco.MjData(env.scene.model), np.random.default_rng(0)
    heights = []
    for x, y in rng.uniform(-3.5, 3.5, (20, 2)):
        qpos = np.array(env.scene.home_qpos)
        qpos[:2] = x, y
        data.qpos[:] = EnvsInHand._raised(hand, qpos)
        mujoco.mj_forward(model, data)
        assert min([0.0, *data.contact.dist]) > -0.005
        heights.append(data.qpos[2] - env.scene.home_qpos[2])
    assert np.ptp(heights) > 0.05
