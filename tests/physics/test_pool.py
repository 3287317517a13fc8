"""The pool for code that steps one env at a time."""

import mujoco
import numpy as np

from ksim.physics.pool import Pool

BEAD = "<mujoco><worldbody><body><joint type='slide' axis='1 0 0'/><geom size='.1'/></body></worldbody></mujoco>"


def test_a_call_depends_on_its_arguments_alone():
    """What an earlier call was given and this one is not is as in a fresh `mjData`."""
    pool = Pool(mujoco.MjModel.from_xml_string(BEAD), ("qpos", "qvel"), 1)
    at_rest = {"qpos": np.zeros(1, np.float32), "qvel": np.zeros(1, np.float32)}
    moved = pool.step(at_rest | {"qfrc_applied": np.ones(1, np.float32)}, {}, 3)
    still = pool.step(at_rest, {}, 3)
    assert moved["qvel"][0] > 0.0 and still["qvel"][0] == still["qpos"][0] == 0.0
