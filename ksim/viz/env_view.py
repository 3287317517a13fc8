"""How an env is looked at: its model with everything visible, and its camera."""

import mujoco

from ksim.envs.env import Env
from ksim.envs.scene import build_scene
from ksim.viz.camera import Camera


def visual_model(env: Env) -> mujoco.MjModel:
    """The model with everything that is there to be looked at; `qpos` is that of the env's model."""
    return build_scene(env.cfg, visual=True).model


def camera(env: Env) -> Camera:
    """The task's camera; it follows the base of a robot that can move away."""
    viewer, robot = env.cfg.viewer, env.scene.robot
    track = robot.base_body if robot.is_floating_base else None
    return Camera.between(viewer.position, viewer.target, track=track, width=viewer.width, height=viewer.height)
