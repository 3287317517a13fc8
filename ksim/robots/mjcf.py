"""Read an MJCF as a robot: one's own, or one that somebody published with actuators, floor and keyframes in it."""

from collections.abc import Collection
from pathlib import Path

import mujoco
import numpy as np

from ksim.config.words import one_line
from ksim.errors import ConfigError

_LFS_POINTER = b"version https://git-lfs"


def read(path: Path, where: str) -> mujoco.MjSpec:
    """Parse ``path``; ``where`` is the config path that errors name.

    Raises ConfigError where there is no such file, MuJoCo cannot read it, or it or a mesh, texture or height field
    of it is a git-lfs pointer.
    """
    if not path.is_file():
        raise ConfigError(f"{where}: no such file: {path}")
    if _is_lfs_pointer(path):
        raise _lfs_error(where, path.parent, [path.name])
    try:
        spec = _parse(path)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{where}: {path}: {one_line(e)}") from None
    # Told here because MuJoCo's own words for a pointer are about a damaged mesh.
    pointers = [name for name, file in _asset_files(spec, path.parent) if _is_lfs_pointer(file)]
    if pointers:
        raise _lfs_error(where, path.parent, pointers)
    return spec


def compile_model(spec: mujoco.MjSpec, path: Path, where: str) -> mujoco.MjModel:
    """Compile ``spec``, read from ``path``; a ConfigError in MuJoCo's words where that fails."""
    try:
        return spec.compile()
    except ValueError as e:
        raise ConfigError(f"{where}: {path}: {one_line(e)}") from None


def keyframes(spec: mujoco.MjSpec) -> dict[str, np.ndarray]:
    """The positions of its keyframes, by name; those that give none, or have no name, are left out."""
    return {key.name: np.array(key.qpos) for key in spec.keys if key.name and len(key.qpos)}


def strip(spec: mujoco.MjSpec) -> None:
    """Remove what the robot's table and the scene have themselves: actuators, keyframes, the world's lights, a sky.

    Sensors of a removed element go with it.
    """
    obj = mujoco.mjtObj
    removed = {(obj.mjOBJ_ACTUATOR, a.name) for a in spec.actuators if a.name}
    removed |= {(obj.mjOBJ_LIGHT, light.name) for light in spec.worldbody.lights if light.name}
    for sensor in list(spec.sensors):
        if (sensor.objtype, sensor.objname) in removed or (sensor.reftype, sensor.refname) in removed:
            spec.delete(sensor)
    skies = [texture for texture in spec.textures if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX]
    for element in [*spec.actuators, *spec.keys, *spec.worldbody.lights, *skies]:
        spec.delete(element)
    spec.nkey = 0  # else a <size nkey> leaves empty keyframes


def collide_only(spec: mujoco.MjSpec, names: Collection[str]) -> None:
    """Let the geoms of these names touch the ground and props, but not each other, and all others nothing.

    In contacts their friction counts, and not the ground's, so that it can be randomized.
    """
    for geom in spec.geoms:
        geom.contype, geom.conaffinity = 0, int(geom.name in names)
        geom.priority = max(geom.priority, geom.conaffinity)
    for pair in list(spec.pairs):
        spec.delete(pair)


def replace_planes(spec: mujoco.MjSpec, floor: str) -> None:
    """Remove the world's planes; contact pairs and sensors that name one of them will name the geom ``floor``.

    The caller adds ``floor``. Raises ConfigError where the MJCF has a geom of that name that is no plane.
    """
    geom = mujoco.mjtObj.mjOBJ_GEOM
    planes = [g for g in spec.worldbody.geoms if g.type == mujoco.mjtGeom.mjGEOM_PLANE]
    names = {plane.name for plane in planes if plane.name}
    if spec.geom(floor) is not None and floor not in names:
        raise ConfigError(
            f"task.scene.terrain: the MJCF has a geom '{floor}' of its own, which is no plane: 'none' keeps it"
        )
    for plane in planes:
        spec.delete(plane)
    for pair in spec.pairs:
        pair.geomname1 = floor if pair.geomname1 in names else pair.geomname1
        pair.geomname2 = floor if pair.geomname2 in names else pair.geomname2
    for sensor in spec.sensors:
        if sensor.objtype == geom and sensor.objname in names:
            sensor.objname = floor
        if sensor.reftype == geom and sensor.refname in names:
            sensor.refname = floor


def _parse(path: Path) -> mujoco.MjSpec:
    if path.suffix == ".xml":
        return mujoco.MjSpec.from_file(str(path))
    # from_file goes by the name's ending and knows none but .xml; the published K-Bot is a robot.mjcf.
    spec = mujoco.MjSpec.from_string(path.read_text(encoding="utf-8"))
    spec.modelfiledir = str(path.parent.absolute())  # where meshes are looked for
    return spec


def _asset_files(spec: mujoco.MjSpec, folder: Path) -> list[tuple[str, Path]]:
    """Name and path of each file that the model loads."""
    names = [(spec.meshdir, mesh.file) for mesh in spec.meshes]
    names += [(spec.meshdir, skin.file) for skin in spec.skins]
    names += [(spec.meshdir, hfield.file) for hfield in spec.hfields]
    for texture in spec.textures:
        names += [(spec.texturedir, file) for file in (texture.file, *texture.cubefiles)]
    if spec.strippath:
        names = [(directory, Path(file).name) for directory, file in names]
    return [(file, folder / directory / file) for directory, file in dict.fromkeys(names) if file]


def _is_lfs_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return f.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return False  # a missing file is MuJoCo's to report, with the element that wants it


def _lfs_error(where: str, folder: Path, names: list[str], shown: int = 3) -> ConfigError:
    files = ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
    are = "is a git-lfs pointer" if len(names) == 1 else "are git-lfs pointers"
    return ConfigError(f"{where}: {files} {are}, not the file itself: run 'git lfs pull' in {folder}")
