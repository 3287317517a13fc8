"""Load a robot: a built-in one by its name, or any folder with a robot.yaml by its path."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import mujoco
import numpy as np

from ksim.config.words import hint
from ksim.errors import ConfigError
from ksim.robots import mirror as mirroring
from ksim.robots import mjcf as mjcf_file
from ksim.robots import table as robot_table
from ksim.robots.names import Names
from ksim.robots.robot import Robot
from ksim.robots.table import Table

_HERE = Path(__file__).parent
_PACKAGE = "package://"


def names() -> list[str]:
    """The built-in robots."""
    return sorted(path.parent.name for path in _HERE.glob("*/robot.yaml"))


def load(name: str, mjcf: str | None = None) -> Robot:
    """Load a robot with a fresh spec.

    What its MJCF has of actuators, keyframes, lights in the world and a sky is removed: the table and the scene have
    their own. Planes in the world stay; a scene with a floor replaces them (`mjcf.replace_planes`).

    Args:
        name: a built-in robot, or the path of a folder with a robot.yaml, with a slash in it (``./my_robot``).
        mjcf: path of another MJCF of the same robot, with the same joints; parts may find none of their sites and
            geoms in it. In place of a path, ``package://<package>/<path in it>``.

    Raises:
        ConfigError: an unknown robot, a file that is missing or cannot be read, names that are not in the MJCF.
    """
    folder = _folder(name)
    table = robot_table.read(folder / "robot.yaml")
    where = f"task.scene.robot: {folder / 'robot.yaml'}" if mjcf is None else "task.scene.mjcf"
    path = _mjcf_path(mjcf or table.mjcf, folder if mjcf is None else Path(), where, table.install)
    spec = mjcf_file.read(path, where)
    keyframes = mjcf_file.keyframes(spec)
    mjcf_file.strip(spec)
    found = Names(spec, where if mjcf is None else f"{where}: {path}")
    if mjcf is None:
        found.check(table.parts)
        if table.collisions is not None:
            mjcf_file.collide_only(spec, found.find("collisions", table.collisions, "geom"))
    rows = found.by_joint(table.joints, "joints")
    for joint_name, row in rows.items():
        if row.armature is not None:
            spec.joint(joint_name).armature = row.armature
    base = found.only("base", table.parts["base"], "body")
    is_floating_base = _has_floating_base(spec, base, table, found.place)
    model = mjcf_file.compile_model(spec, path, where)
    home_qpos = _home_qpos(model, base, table, found.by_joint(table.home.joint_pos, "home.joint_pos"))
    joint_names = tuple(rows)
    ids = [model.joint(joint_name).id for joint_name in joint_names]
    mirror = None
    if table.mirror is not None:
        mirror = mirroring.mirror_map(table.mirror, joint_names, found.place)
        if is_floating_base:
            mirroring.check(mirror, model, joint_names, home_qpos, base, found.place)
    return Robot(
        name=folder.name,
        spec=spec,
        parts=table.parts,
        joint_names=joint_names,
        kp_u=np.array([row.kp for row in rows.values()]),
        kd_u=np.array([row.kd for row in rows.values()]),
        torque_limit_u=np.array([row.torque_limit for row in rows.values()]),
        armature_u=model.dof_armature[model.jnt_dofadr[ids]],
        home_qpos=home_qpos,
        keyframes={name: qpos for name, qpos in keyframes.items() if len(qpos) == model.nq},
        base_body=base,
        is_floating_base=is_floating_base,
        imu_site=_imu_site(found, table, mjcf is None),
        mirror=mirror,
    )


def _folder(name: str) -> Path:
    if name in names():
        return _HERE / name
    folder = Path(name).expanduser()
    if "/" in name or os.sep in name:
        if (folder / "robot.yaml").is_file():
            return folder.resolve()
        what = "no robot.yaml in" if folder.is_dir() else "no such folder:"
        raise ConfigError(f"task.scene.robot: {what} {folder}")
    here = f" (did you mean the folder './{name}'?)" if (folder / "robot.yaml").is_file() else hint(name, names())
    raise ConfigError(
        f"task.scene.robot: unknown robot '{name}'{here}; "
        f"there are {', '.join(names())}, or the path of a folder with a robot.yaml, such as ./my_robot"
    )


def _mjcf_path(given: str, folder: Path, where: str, install: str | None) -> Path:
    """The file that `package://<package>/<path>` names, or one relative to a folder."""
    if not given.startswith(_PACKAGE):
        return folder / Path(given).expanduser()
    package, _, inside = given.removeprefix(_PACKAGE).partition("/")
    # Found, not imported: a robot's table runs no code. So no dots: to find `a.b` imports `a`.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        remedy = install or f"pip install {package}"
        raise ConfigError(f"{where}: {given}: there is no installed package {package!r}; get it with: {remedy}")
    return Path(next(iter(spec.submodule_search_locations))) / inside


def _imu_site(found: Names, table: Table, is_required: bool) -> str | None:
    if "imu" not in table.parts:
        return None
    try:
        return found.only("imu", table.parts["imu"], "site")
    except ConfigError:
        if is_required:
            raise
        return None


def _has_floating_base(spec: mujoco.MjSpec, base: str, table: Table, where: str) -> bool:
    is_free = any(joint.type == mujoco.mjtJoint.mjJNT_FREE for joint in spec.body(base).joints)
    if is_free != (table.home.base_pos is not None):
        has, wants = ("a", "no") if is_free else ("no", "a")
        raise ConfigError(
            f"{where}: body '{base}' has {has} free joint, but the robot's home pose (home.base_pos) wants {wants} "
            "floating base"
        )
    return is_free


def _home_qpos(model: mujoco.MjModel, base: str, table: Table, joint_pos: Mapping[str, float]) -> np.ndarray:
    qpos = np.array(model.qpos0)
    if table.home.base_pos is not None:
        start = model.jnt_qposadr[model.body(base).jntadr[0]]
        qpos[start : start + 7] = [*table.home.base_pos, 1.0, 0.0, 0.0, 0.0]
    for name, value in joint_pos.items():
        qpos[model.jnt_qposadr[model.joint(name).id]] = value
    return qpos
