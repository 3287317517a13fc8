"""The compiled model of a task and the names in it, resolved to ids once."""

import re
from collections.abc import Mapping
from functools import cached_property

import mujoco
import numpy as np

from ksim.config.schema import ManagerBasedRlEnvCfg, SimCfg
from ksim.envs.calling import at, construct
from ksim.envs.contacts import ContactSensor
from ksim.envs.ground import Ground, make_ground
from ksim.envs.settings import SensorSettings
from ksim.envs.terms import resolve
from ksim.errors import ConfigError
from ksim.physics.base import APPLIED_FORCES
from ksim.robots import Robot, load
from ksim.robots.actuators import Control, add_actuators, set_control
from ksim.robots.mjcf import replace_planes
from ksim.robots.parts import Kind, Names, match

_INTEGRATORS = {
    "euler": mujoco.mjtIntegrator.mjINT_EULER,
    "rk4": mujoco.mjtIntegrator.mjINT_RK4,
    "implicit": mujoco.mjtIntegrator.mjINT_IMPLICIT,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
}
_SOLVERS = {"newton": mujoco.mjtSolver.mjSOL_NEWTON, "cg": mujoco.mjtSolver.mjSOL_CG}
_CONES = {"pyramidal": mujoco.mjtCone.mjCONE_PYRAMIDAL, "elliptic": mujoco.mjtCone.mjCONE_ELLIPTIC}


ENCODER_BIAS = "encoder_bias"  # what joint encoders measure too much, a value per joint; it is not MuJoCo's


class Scene:
    """A robot in a world: the compiled model, and where the robot's parts lie in it.

    Joints here are the hinges and slides: the actuated ones first, in the order of the actuators, then the passive.

    Attributes:
        robot: the robot's table.
        model: the compiled MuJoCo model.
        home_qpos: (nq,) the robot's home pose; props keep the model's `qpos0`.
        contacts: the task's contact sensors, by name.
        ground: uneven ground; None where the floor is flat, or the MJCF's own.
        joint_names: (j,) names of the joints; num_actuated of them are actuated.
        joint_ids: (j,) their ids in the model; joint_qpos_adr where they lie in `qpos`, joint_dof_adr in `qvel`.
        home_joint_pos: (j,) home position of each joint, rad or m.
    """

    def __init__(
        self,
        robot: Robot,
        model: mujoco.MjModel,
        contacts: Mapping[str, ContactSensor] | None = None,
        ground: Ground | None = None,
    ):
        self.robot = robot
        self.ground = ground
        self.contacts = dict(contacts or {})
        self.model = model
        scalar = [mujoco.mjtJoint.mjJNT_HINGE.value, mujoco.mjtJoint.mjJNT_SLIDE.value]
        passive = [model.joint(j).name for j in range(model.njnt) if model.jnt_type[j] in scalar]
        self.joint_names = (*robot.joint_names, *(name for name in passive if name not in robot.joint_names))
        self.num_actuated = len(robot.joint_names)
        self.joint_ids = np.array([model.joint(name).id for name in self.joint_names])
        self.joint_qpos_adr = model.jnt_qposadr[self.joint_ids]
        self.joint_dof_adr = model.jnt_dofadr[self.joint_ids]
        self.home_qpos = np.array(model.qpos0)
        self.home_qpos[: len(robot.home_qpos)] = robot.home_qpos
        self.home_joint_pos = self.home_qpos[self.joint_qpos_adr]

    def set_control(self, control: Mapping[str, Control]) -> None:
        """Set what actuators track, by joint name; joints that are not named hold their position.

        Raises:
            ConfigError: an unknown joint or kind of control.
        """
        set_control(self.model, self.robot, control)

    @cached_property
    def base_qpos_adr(self) -> int | None:
        """Where the floating base's seven positions start in `qpos`; None for a robot with a fixed base."""
        joint = self._free_joint
        return None if joint is None else int(self.model.jnt_qposadr[joint])

    @cached_property
    def base_dof_adr(self) -> int | None:
        """Where the floating base's six velocities start in `qvel`; None for a robot with a fixed base."""
        joint = self._free_joint
        return None if joint is None else int(self.model.jnt_dofadr[joint])

    @cached_property
    def _free_joint(self) -> int | None:
        body = self.model.body(self.robot.base_body)
        ids = [j for j in range(body.jntadr[0], body.jntadr[0] + body.jntnum[0]) if body.jntadr[0] >= 0]
        free = [j for j in ids if self.model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE]
        return free[0] if free else None

    def find_joints(self, names: Names, *, actuated: bool = False) -> np.ndarray:
        """Indices of the joints that a part of the robot has, or whose whole name matches a regex.

        Args:
            names: a part's name or a regex, or several of them; a part wins over a regex.
            actuated: look among the actuated joints only.

        Raises:
            ConfigError: nothing matches.
        """
        there = self.joint_names[: self.num_actuated] if actuated else self.joint_names
        return match(names, there, "joint", self.robot.parts, what="actuated joint" if actuated else None)

    def find(self, kind: Kind, names: Names) -> np.ndarray:
        """Ids of the bodies, geoms, sites or sensors that a part of the robot has, or whose whole name matches a regex.

        Args:
            kind: `body`, `geom`, `site` or `sensor`.
            names: a part's name or a regex, or several of them; a part wins over a regex.

        Raises:
            ConfigError: nothing matches.
        """
        count = {"body": "nbody", "geom": "ngeom", "site": "nsite", "sensor": "nsensor"}[kind]
        there = [getattr(self.model, kind)(i).name for i in range(getattr(self.model, count))]
        return match(names, there, kind, self.robot.parts)

    @property
    def home_height(self) -> float:
        """Height of a floating base above the floor in the home pose, m: the robot's measure of length.

        Raises:
            ConfigError: the base is fixed.
        """
        if self.base_qpos_adr is None:
            raise ConfigError(f"robot {self.robot.name!r} has no floating base")
        return float(self.home_qpos[self.base_qpos_adr + 2])

    def compiled(self, name: str) -> np.ndarray:
        """What all envs start with, of a field that may differ between envs: mjModel's, forces applied, encoder bias.

        Raises:
            AttributeError: there is no such field.
        """
        if name == ENCODER_BIAS:
            return np.zeros(len(self.joint_names))
        if name in APPLIED_FORCES:
            return np.zeros_like(getattr(mujoco.MjData(self.model), name))
        if name.startswith("opt."):
            return np.asarray(getattr(self.model.opt, name.removeprefix("opt.")))
        return np.asarray(getattr(self.model, name))

    def sensor_slice(self, name: str) -> slice:
        """Where one sensor's values lie in `sensordata`.

        Raises:
            ConfigError: the model has no such sensor.
        """
        sensor = self.model.sensor(int(self.find("sensor", re.escape(name))[0]))
        return slice(int(sensor.adr[0]), int(sensor.adr[0] + sensor.dim[0]))


def build_scene(cfg: ManagerBasedRlEnvCfg, *, visual: bool = False) -> Scene:
    """Compile a task's world; its actuators hold positions until `Scene.set_control`.

    Args:
        cfg: the task.
        visual: keep the geoms that are there to be looked at only. Stepping is faster without them; `qpos` is the
            same with and without, but geom ids are not.

    Raises:
        ConfigError: the robot or its MJCF does not load.
    """
    robot = load(cfg.scene.robot, cfg.scene.mjcf)
    spec = robot.spec
    add_actuators(spec, robot)
    ground = make_ground(cfg.scene)
    if cfg.scene.terrain != "none":
        replace_planes(spec, "floor")
        _add_floor(spec, ground)
    contacts = _add_sensors(robot, cfg)
    _add_lights(spec)
    _set_options(spec, cfg.sim)
    _set_contacts(spec, cfg.sim)
    spec.compiler.discardvisual = not visual
    try:
        model = spec.compile()
    except ValueError as error:
        raise ConfigError(f"task.scene.robot: MuJoCo cannot compile {robot.name!r}: {error}") from None
    return Scene(robot, model, contacts, ground)


def _add_floor(spec: mujoco.MjSpec, ground: Ground | None) -> None:
    spec.add_texture(
        name="scene/floor",  # names that no MJCF has
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.80, 0.83, 0.86],
        rgb2=[0.72, 0.76, 0.80],
        width=300,
        height=300,
    )
    textures = [""] * mujoco.mjtTextureRole.mjNTEXROLE
    textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "scene/floor"
    spec.add_material(name="scene/floor", textures=textures, texrepeat=[2, 2], texuniform=True)
    # contype 1 meets the conaffinity 1 of feet and props; conaffinity 0 keeps everything else out.
    flat = {"type": mujoco.mjtGeom.mjGEOM_PLANE, "size": [0, 0, 0.05]}
    spec.worldbody.add_geom(
        name="floor",
        **(flat if ground is None else ground.add_to(spec, "scene/ground")),
        material="scene/floor",
        contype=1,
        conaffinity=0,
        condim=3,
    )


def _add_sensors(robot: Robot, cfg: ManagerBasedRlEnvCfg) -> dict[str, ContactSensor]:
    """Add the task's sensors; the contact sensors among them, by name."""
    contacts = {}
    for name, term in resolve("task.scene.sensors", cfg.scene.sensors, SensorSettings).items():
        with at(term):
            if name in [sensor.name for sensor in robot.spec.sensors]:
                raise ConfigError(f"the robot's MJCF has a sensor {name!r} already")
            sensor = construct(term)(robot, name)
        if isinstance(sensor, ContactSensor):
            contacts[name] = sensor
    return contacts


def _add_lights(spec: mujoco.MjSpec) -> None:
    spec.worldbody.add_light(
        name="scene/sun",
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0, 0, 4],
        dir=[0.3, 0.5, -1],
        diffuse=[0.55, 0.55, 0.55],
    )
    spec.visual.headlight.ambient = [0.45, 0.45, 0.45]
    spec.visual.headlight.diffuse = [0.4, 0.4, 0.4]
    spec.add_texture(
        name="scene/sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.95, 0.97, 1.0],
        rgb2=[0.65, 0.75, 0.88],
        width=256,
        height=256,
    )


def _set_options(spec: mujoco.MjSpec, sim: SimCfg) -> None:
    option = spec.option
    option.timestep = sim.timestep
    option.integrator = _INTEGRATORS[sim.integrator]
    option.solver = _SOLVERS[sim.solver]
    option.cone = _CONES[sim.cone]
    option.iterations = sim.iterations
    option.ls_iterations = sim.ls_iterations
    option.impratio = sim.impratio
    if sim.gravity is not None:
        option.gravity = sim.gravity
    # A diverged state must stay visible to the NaN guard: C MuJoCo would silently put the robot back to qpos0.
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET


def _set_contacts(spec: mujoco.MjSpec, sim: SimCfg) -> None:
    for geom in spec.geoms:
        if sim.contact_solref is not None:
            geom.solref = sim.contact_solref
        if sim.contact_solimp is not None:
            geom.solimp = sim.contact_solimp
        if sim.contact_margin is not None:
            geom.margin = sim.contact_margin
