"""A scene for another MuJoCo than the one that compiled it: its MJCF, the files that this names, and exact numbers.

A binary model is bound to the release that wrote it, and MuJoCo's WebAssembly build is of another. An MJCF is not, but
it rounds, and it knows nothing of what was changed in the compiled model: what differs is carried beside it.
"""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from ksim.config.words import one_line
from ksim.envs.scene import Scene
from ksim.errors import KsimError

# Of names, files and looks, of which a simulation needs none.
_NOT_SIMULATED = ("_", "cam_", "key_", "light_", "mat_", "name", "paths", "skin_", "tex_", "text_", "tuple_", "vis")


def simulation(scene: Scene) -> dict[str, Any]:
    """What compiles and then is set to the scene's model, number for number.

    Returns:
        `mjcf`; `files`, by the name that the MJCF gives them; `exact`: arrays of mjModel, by their name; `option`:
        numbers of `mjModel.opt`.

    Raises:
        KsimError: the scene's MJCF does not give its model again.
    """
    try:
        root = ET.fromstring(scene.robot.spec.to_xml())
        files = _take_files(root, scene.robot.spec)
        mjcf = ET.tostring(root, encoding="unicode")
        copy = mujoco.MjModel.from_xml_string(mjcf, dict(files))
    except (OSError, ValueError, mujoco.FatalError) as error:
        raise KsimError(f"page: {scene.robot.name!r} cannot be written as an MJCF: {one_line(error)}") from error
    exact = {}
    for name in dir(scene.model):
        value = getattr(scene.model, name)
        if isinstance(value, np.ndarray) and not name.startswith(_NOT_SIMULATED):
            other = getattr(copy, name)
            if value.shape != other.shape:
                raise KsimError(f"page: {scene.robot.name!r} is another model when it is written as an MJCF: {name}")
            if not np.array_equal(value, other):
                exact[name] = value
    return {"mjcf": mjcf, "files": files, "exact": exact, "option": _options(scene.model, copy)}


def _take_files(root: ET.Element, spec: mujoco.MjSpec) -> dict[str, bytes]:
    """The files that an MJCF names, read, and given names of their own in it."""
    files: dict[str, bytes] = {}
    for element in root.iter():
        if file := element.get("file"):
            folder = spec.texturedir if element.tag == "texture" else spec.meshdir
            path = Path(spec.modelfiledir) / folder / (Path(file).name if spec.strippath else file)
            name = f"{len(files)}{path.suffix}"
            files[name] = path.read_bytes()
            element.set("file", name)
    for compiler in root.iter("compiler"):
        for name in ("assetdir", "meshdir", "texturedir", "strippath"):
            compiler.attrib.pop(name, None)
    return files


def _options(model: mujoco.MjModel, copy: mujoco.MjModel) -> dict[str, Any]:
    found = {}
    for name in dir(model.opt):
        value = getattr(model.opt, name)
        if isinstance(value, float | int | np.ndarray) and not np.array_equal(value, getattr(copy.opt, name)):
            found[name] = value
    return found
