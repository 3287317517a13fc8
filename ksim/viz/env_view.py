"""How an env is looked at: its model with everything visible, and its camera."""

from dataclasses import replace

import mujoco
import numpy as np

from ksim.config.schema import ViewerCfg
from ksim.envs.env import Env
from ksim.envs.foreign import ForeignEnv
from ksim.envs.scene import build_scene
from ksim.viz.camera import Camera


def visual_model(env: Env) -> mujoco.MjModel:
    """The model with everything that is there to be looked at; `qpos` is that of the env's model."""
    return env.scene.model if isinstance(env, ForeignEnv) else build_scene(env.cfg, visual=True).model


def camera(env: Env, model: mujoco.MjModel) -> Camera:
    """The task's camera, or where it names none, one that frames the robot; it follows a robot that can move away.

    Args:
        env: the env.
        model: its visual model.
    """
    viewer = env.cfg.viewer
    if isinstance(env, ForeignEnv):
        return _camera_of_model(viewer, model)
    robot = env.scene.robot
    track = robot.base_body if robot.is_floating_base else None
    qpos = np.concatenate([robot.home_qpos, model.qpos0[len(robot.home_qpos) :]])
    framing = Camera.framing(model, qpos, track=track, width=viewer.width, height=viewer.height)
    x, y, z = framing.lookat if viewer.target is None else viewer.target
    if viewer.position is None:
        return replace(framing, lookat=(x, y, z))
    return Camera.between(viewer.position, (x, y, z), track=track, width=viewer.width, height=viewer.height)


def _camera_of_model(viewer: ViewerCfg, model: mujoco.MjModel) -> Camera:
    size = {"width": viewer.width, "height": viewer.height}
    if viewer.position is None:
        return Camera.of_model(model, **size)
    return Camera.between(viewer.position, viewer.target or (0.0, 0.0, 0.0), **size)
