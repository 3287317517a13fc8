"""What a term sees: one env at one instant, read only."""

import copy
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ksim.config.words import choices, hint
from ksim.envs.carry import Memory, PerEnv, Shared
from ksim.envs.contacts import Contacts
from ksim.envs.ground import height_under
from ksim.envs.math import rotate_inverse
from ksim.envs.scene import ENCODER_BIAS, Scene
from ksim.errors import ConfigError
from ksim.physics.base import DERIVED_FIELDS, PEAK_FIELD, STATE_FIELDS, field_shape, float_dtype


class Context:
    """One env at one instant.

    Fields of mjData are attributes under MuJoCo's own names (`ctx.xpos`, `ctx.sensordata`, ...: those that
    `ksim.physics.base.DERIVED_FIELDS` lists); an engine carries only those that terms read. Below are the quantities
    that robots are usually described by.

    Attributes:
        scene: names, ids and the robot's table.
        action, prev_action: (a,) last action and the one before.
        episode_step: env steps since the reset.
        time_s: seconds since the reset.
        max_episode_steps: env steps of a full episode, 0 where there is no limit.
        terminated: the episode ends here in a state of its own; for rewards, which are computed after terminations.
        truncated: the episode is cut here by a time limit; likewise.
        diverged: the NaN guard has found the env's new state or its action not finite, and put it back.
        memory: what terms remember, by their path in the config.
    """

    def __init__(
        self,
        scene: Scene,
        env: PerEnv,
        shared: Shared,
        *,
        step_dt: float,
        max_episode_steps: int,
        terminated: Bool[Array, ""] | bool = False,
        truncated: Bool[Array, ""] | bool = False,
        diverged: Bool[Array, ""] | bool = False,
    ):
        self.scene = scene
        self.env = env
        self.shared = shared
        self.step_dt = step_dt
        self.max_episode_steps = max_episode_steps
        self.terminated = jnp.asarray(terminated)
        self.truncated = jnp.asarray(truncated)
        self.diverged = jnp.asarray(diverged)
        self.memory: Mapping[str, Any] = MappingProxyType(env.memory)

    def remembering(self, changes: Memory) -> "Context":
        """The same instant with some memories changed."""
        copied = copy.copy(self)
        copied.memory = MappingProxyType({**self.memory, **changes})
        return copied

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_"):
            raise AttributeError(name)
        physics = self.env.physics
        if name in STATE_FIELDS:
            return getattr(physics, name)
        try:
            return physics.fields[name]
        except KeyError:
            own = [n for n in (*vars(self), *dir(type(self))) if not n.startswith("_")]
            near = hint(name, [*own, *STATE_FIELDS, *DERIVED_FIELDS])
            raise AttributeError(
                f"the context has no {name!r}{near}: it is neither one of its own nor a field of mjData that engines "
                f"compute ({', '.join(sorted(DERIVED_FIELDS))}); what sensors measure is in ctx.sensor(name)"
            ) from None

    # The episode

    @property
    def action(self) -> Float[Array, " a"]:
        """The policy's action of this step, clipped as the task says."""
        return self.env.action

    @property
    def prev_action(self) -> Float[Array, " a"]:
        """The action before."""
        return self.env.prev_action

    @property
    def episode_step(self) -> Int[Array, ""]:
        """Steps since the reset."""
        return self.env.episode_step

    @property
    def time_s(self) -> Float[Array, ""]:
        """Seconds since the reset."""
        return self.env.episode_step * jnp.asarray(self.step_dt, float_dtype())

    # What other terms give

    def command(self, name: str) -> Float[Array, " n"]:
        """The present value of a command of `task.commands`.

        Raises:
            ConfigError: there is no such command.
        """
        return _named(self.memory, name, "task.commands.", "command").value

    def command_time_left(self, name: str) -> Float[Array, ""]:
        """Seconds until a command of `task.commands` is drawn anew.

        Raises:
            ConfigError: there is no such command.
        """
        steps_left = _named(self.memory, name, "task.commands.", "command").steps_left
        return steps_left * jnp.asarray(self.step_dt, float_dtype())

    def curriculum(self, name: str) -> Array:
        """The present value of a curriculum of `task.curriculum`.

        Raises:
            ConfigError: there is no such curriculum.
        """
        return _named(self.shared.curriculum, name, "task.curriculum.", "curriculum").value

    # The joints: hinges and slides, the actuated ones first, in the order of the actuators

    @property
    def joint_pos(self) -> Float[Array, " j"]:
        """Positions of the joints, rad or m."""
        return self.qpos[self.scene.joint_qpos_adr]

    @property
    def joint_vel(self) -> Float[Array, " j"]:
        """Velocities of the joints, rad/s or m/s."""
        return self.qvel[self.scene.joint_dof_adr]

    @property
    def joint_pos_rel(self) -> Float[Array, " j"]:
        """Positions of the joints relative to the home pose, rad or m."""
        return self.joint_pos - jnp.asarray(self.scene.home_joint_pos, self.qpos.dtype)

    @property
    def measured_joint_pos(self) -> Float[Array, " j"]:
        """Positions of the joints as their encoders measure them, rad or m."""
        return self.joint_pos + self.encoder_bias if self.has_encoder_bias else self.joint_pos

    @property
    def has_encoder_bias(self) -> bool:
        """Whether an event of the task gives the encoders a bias."""
        return self.varies(ENCODER_BIAS)

    @property
    def encoder_bias(self) -> Float[Array, " j"]:
        """What the encoders measure too much, rad or m."""
        return self.model_field(ENCODER_BIAS)

    # The floating base; for a robot without one, all of these raise ConfigError

    @property
    def base_qpos_adr(self) -> int:
        """Where its seven positions start in `qpos`."""
        return self._of_base(self.scene.base_qpos_adr)

    @property
    def base_dof_adr(self) -> int:
        """Where its six velocities start in `qvel`."""
        return self._of_base(self.scene.base_dof_adr)

    @property
    def base_pos(self) -> Float[Array, " 3"]:
        """Position of the base in the world, m."""
        return self.qpos[self.base_qpos_adr :][:3]

    @property
    def base_quat(self) -> Float[Array, " 4"]:
        """Orientation of the base in the world, wxyz."""
        return self.qpos[self.base_qpos_adr :][3:7]

    @property
    def base_lin_vel_w(self) -> Float[Array, " 3"]:
        """Linear velocity of the base in the world frame, m/s."""
        return self.qvel[self.base_dof_adr :][:3]

    @property
    def base_lin_vel(self) -> Float[Array, " 3"]:
        """Linear velocity of the base in its own frame, m/s."""
        return rotate_inverse(self.base_quat, self.base_lin_vel_w)

    @property
    def base_ang_vel(self) -> Float[Array, " 3"]:
        """Angular velocity of the base in its own frame, rad/s."""
        return self.qvel[self.base_dof_adr :][3:6]

    @property
    def projected_gravity(self) -> Float[Array, " 3"]:
        """Direction of gravity in the base's frame, a unit vector: (0, 0, -1) when upright."""
        return rotate_inverse(self.base_quat, jnp.array([0.0, 0.0, -1.0], self.qpos.dtype))

    def ground_height(self, points: Float[Array, "*n d"]) -> Float[Array, "*n"]:
        """Height of the ground under points of the world, (x, y) or (x, y, z), m; 0 of a flat floor."""
        return height_under(self.scene.ground, points)

    def height_above_ground(self, points: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
        """Height of points of the world above the ground under them, m."""
        return points[..., 2] if self.scene.ground is None else points[..., 2] - self.ground_height(points)

    def body_lin_vel(self, bodies: np.ndarray) -> Float[Array, "n 3"]:
        """Linear velocities of the origins of bodies, by id, in the world frame, m/s."""
        return self.point_lin_vel(bodies, self.xpos[bodies])

    def point_lin_vel(self, bodies: np.ndarray, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        """Linear velocities of points of bodies, by id, in the world frame, m/s; the points' places are in it, too."""
        # cvel is the spatial velocity (angular, linear) at the centre of mass of the body's kinematic tree.
        arm = points - self.subtree_com[self.scene.model.body_rootid[bodies]]
        return self.cvel[bodies, 3:] + jnp.cross(self.cvel[bodies, :3], arm)

    def sensor(self, name: str) -> Float[Array, " n"]:
        """Values of one sensor of the model, in MuJoCo's units.

        Raises:
            ConfigError: the model has no such sensor.
        """
        return self.sensordata[self.scene.sensor_slice(name)]

    def contact(self, name: str) -> Contacts:
        """What a contact sensor of `task.scene.sensors` tells.

        Raises:
            ConfigError: the task has no such contact sensor.
        """
        sensors = self.scene.contacts
        if name not in sensors:
            raise ConfigError(
                f"there is no contact sensor {name!r} in task.scene.sensors{hint(name, sensors) or choices(sensors)}"
            )
        sensor = sensors[name]
        times = self.memory.get(sensor.path)
        return Contacts(sensor, self.scene.sensor_slice, partial(getattr, self), times, self.step_dt)

    def varies(self, name: str) -> bool:
        """Whether an event of the task writes a field of mjModel, of the applied forces or `encoder_bias`."""
        return name in self.env.model_fields

    def model_field(self, name: str) -> Array:
        """A field of mjModel, of the applied forces or `encoder_bias`: this env's value where an event writes it, else
        the compiled one, or zero.
        """
        if name in self.env.model_fields:
            return self.env.model_fields[name]
        return jnp.asarray(self.scene.compiled(name), float_dtype())

    def _of_base(self, adr: int | None) -> int:
        if adr is None:
            raise ConfigError(f"robot {self.scene.robot.name!r} has no floating base")
        return adr


def _named(found: Mapping[str, Any], name: str, prefix: str, kind: str) -> Any:
    if prefix + name in found:
        return found[prefix + name]
    names = [path.removeprefix(prefix) for path in found if path.startswith(prefix)]
    raise ConfigError(f"there is no {kind} {name!r} in {prefix[:-1]}{hint(name, names) or choices(names)}")


class RecordingFields(Mapping[str, Array]):
    """Stands in for a state's derived fields while terms are traced once, and notes which of them they read."""

    def __init__(self, model: mujoco.MjModel):
        self._data = mujoco.MjData(model)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Array:
        if name not in (*DERIVED_FIELDS, PEAK_FIELD):
            raise KeyError(name)
        if name not in self.read:
            self.read.append(name)
        return jnp.zeros(field_shape(self._data, name), float_dtype())

    def __iter__(self) -> Any:
        return iter(self.read)

    def __len__(self) -> int:
        return len(self.read)
