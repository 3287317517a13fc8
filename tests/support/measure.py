"""What a robot does, measured by MuJoCo on a simulation: the other side of every comparison with a term."""

import mujoco
import numpy as np

from ksim.envs.scene import Scene


def velocity(scene: Scene, data: mujoco.MjData, body: str, *, local: bool) -> tuple[np.ndarray, np.ndarray]:
    """Angular and linear velocity of a body's origin, in the world's axes or in its own."""
    result = np.zeros(6)
    object_type = mujoco.mjtObj.mjOBJ_XBODY
    mujoco.mj_objectVelocity(scene.model, data, object_type, scene.model.body(body).id, result, int(local))
    return result[:3], result[3:]


def gravity(scene: Scene, data: mujoco.MjData) -> np.ndarray:
    """Direction of gravity in the base's frame."""
    rotation = data.body(scene.robot.base_body).xmat.reshape(3, 3)
    return rotation.T @ [0.0, 0.0, -1.0]


def joints(scene: Scene, data: mujoco.MjData, part: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities and home positions of the joints whose name holds `part`, by name."""
    names = [name for name in scene.joint_names if part in name]
    home = {name: scene.home_qpos[scene.model.joint(name).qposadr[0]] for name in names}
    return (
        np.array([data.joint(name).qpos[0] for name in names]),
        np.array([data.joint(name).qvel[0] for name in names]),
        np.array([home[name] for name in names]),
    )
