"""Load a robot: a built-in one by its name, or any folder with a robot.yaml by its path."""

from pathlib import Path

import mujoco
import numpy as np

from ksim.errors import ConfigError
from ksim.robots import mjcf as mjcf_file
from ksim.robots import table as robot_table
from ksim.robots.robot import Mirror, Robot
from ksim.robots.table import Table, nearest

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The built-in robots."""
    return sorted(path.parent.name for path in _HERE.glob("*/robot.yaml"))


def load(name: str, mjcf: str | None = None) -> Robot:
    """Load a robot with a fresh spec.

    Args:
        name: a built-in robot, or the path of a folder with a robot.yaml and its MJCF.
        mjcf: path of another MJCF of the same robot, with the same joints. What it has of actuators, keyframes, and
            planes and lights in the world is removed; sites and foot geoms of the table that it lacks are left out.

    Raises:
        ConfigError: an unknown robot, a file that is missing or cannot be read, joints that are not in the MJCF.
    """
    folder = _folder(name)
    table = robot_table.read(folder / "robot.yaml")
    if mjcf is None:
        path, where = table.mjcf, "task.scene.robot"
    else:
        path, where = Path(mjcf).expanduser(), "task.scene.mjcf"
    spec = mjcf_file.read(path, where)
    if mjcf is not None:
        mjcf_file.strip(spec)
    _check_names(spec, table, path, where, strict=mjcf is None)
    for joint_name, row in table.joints.items():
        spec.joint(joint_name).armature = row.armature
    model = mjcf_file.compile_model(spec, path, where)

    rows = table.joints.values()
    home_qpos = _home_qpos(model, table)
    return Robot(
        name=folder.name,
        spec=spec,
        joint_names=tuple(table.joints),
        actuator_types=tuple(row.type for row in rows),
        kp_u=np.array([row.kp for row in rows]),
        kd_u=np.array([row.kd for row in rows]),
        torque_limit_u=np.array([row.torque_limit for row in rows]),
        max_torque_u=np.array([row.max_torque for row in rows]),
        max_velocity_u=np.array([row.max_velocity for row in rows]),
        armature_u=np.array([row.armature for row in rows]),
        home_qpos=home_qpos,
        home_joint_pos_u=np.array([table.home_joint_pos[joint_name] for joint_name in table.joints]),
        base_body=table.base_body,
        is_floating_base=table.home_base_pos is not None,
        imu_site=table.imu_site if table.imu_site and spec.site(table.imu_site) else None,
        foot_sites=tuple(site for site in table.foot_sites if spec.site(site)),
        foot_geoms=tuple(geom for geom in table.foot_geoms if spec.geom(geom)),
        mirror=_mirror(table),
    )


def _folder(name: str) -> Path:
    if name in names():
        return _HERE / name
    folder = Path(name).expanduser()
    if (folder / "robot.yaml").is_file():
        return folder.resolve()
    if folder.is_dir():
        raise ConfigError(f"task.scene.robot: no robot.yaml in {folder}")
    raise ConfigError(
        f"task.scene.robot: unknown robot '{name}'{nearest(name, names())}; "
        f"there are {', '.join(names())}, or the path of a folder with a robot.yaml"
    )


def _check_names(spec: mujoco.MjSpec, table: Table, path: Path, where: str, strict: bool) -> None:
    """What the table names must be in the model; sites and geoms only where ``strict``."""

    def require(kind: str, wanted: list[str], there: list[str]) -> None:
        if missing := [word for word in wanted if word not in there]:
            raise ConfigError(
                f"{where}: {path} has no {kind} {', '.join(missing)}{nearest(missing[0], there)}; "
                f"it has: {', '.join(filter(None, there)) or 'none'}"
            )

    joint_names = [joint.name for joint in spec.joints if joint.type != mujoco.mjtJoint.mjJNT_FREE]
    require("joint", list(dict.fromkeys([*table.joints, *table.home_joint_pos])), joint_names)
    require("body", [table.base_body], [body.name for body in spec.bodies])
    if strict:
        sites = [*table.foot_sites, *([table.imu_site] if table.imu_site else [])]
        require("site", sites, [site.name for site in spec.sites])
        require("geom", list(table.foot_geoms), [geom.name for geom in spec.geoms])
    for name in table.home_joint_pos:
        if spec.joint(name).type == mujoco.mjtJoint.mjJNT_BALL:
            raise ConfigError(f"{where}: {path}: joint '{name}' is a ball joint; wanted is a hinge or a slide")
    free = [joint for joint in spec.body(table.base_body).joints if joint.type == mujoco.mjtJoint.mjJNT_FREE]
    if bool(free) != (table.home_base_pos is not None):
        has, wants = ("a", "no") if free else ("no", "a")
        raise ConfigError(
            f"{where}: {path}: body '{table.base_body}' has {has} free joint, but the robot's home pose "
            f"(home.base_pos) wants {wants} floating base"
        )


def _home_qpos(model: mujoco.MjModel, table: Table) -> np.ndarray:
    qpos = model.qpos0.copy()
    if table.home_base_pos is not None:
        start = model.jnt_qposadr[model.body(table.base_body).jntadr[0]]
        qpos[start : start + 7] = [*table.home_base_pos, 1.0, 0.0, 0.0, 0.0]
    for name, value in table.home_joint_pos.items():
        qpos[model.jnt_qposadr[model.joint(name).id]] = value
    return qpos


def _mirror(table: Table) -> Mirror | None:
    if table.mirror is None:
        return None
    order = list(table.joints)
    pairs = [table.mirror[name] for name in order]
    return Mirror(
        joint_index_u=np.array([order.index(other) for other, _ in pairs]),
        joint_sign_u=np.array([float(sign) for _, sign in pairs]),
    )
