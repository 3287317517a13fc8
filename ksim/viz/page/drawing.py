"""What a page draws: the geoms that MuJoCo's viewer shows, in the frames of their bodies."""

from typing import Any

import mujoco
import numpy as np

_GEOM = mujoco.mjtGeom
_SHOWN_GROUPS = 3  # groups 0 to 2; collision geoms are in 3, by custom


def drawing(model: mujoco.MjModel) -> dict[str, Any]:
    """The shapes of a model.

    Returns:
        `geoms`: each its `body`, by id, `type`, as MuJoCo calls it, `size` (m), `pos` and `quat` (wxyz) in the body's
        frame, `rgba`, and `data`, which mesh or height field it is; `meshes`: each its `vertices` (m), `faces`,
        `normals` and `normal_faces`, flat; `hfields`: each its `size`, as MuJoCo means it, `shape` and `heights`.
    """
    shown = [
        g
        for g in range(model.ngeom)
        if model.geom_group[g] < _SHOWN_GROUPS and _rgba(model, g)[3] > 0 and _kind(model, g) != "sdf"
    ]
    ids = {kind: sorted({int(model.geom_dataid[g]) for g in shown if _kind(model, g) == kind}) for kind in _SHAPES}
    geoms = []
    for g in shown:
        kind = _kind(model, g)
        geom = {
            "body": int(model.geom_bodyid[g]),
            "type": kind,
            "size": model.geom_size[g],
            "pos": model.geom_pos[g],
            "quat": model.geom_quat[g],
            "rgba": _rgba(model, g),
        }
        if kind in ids:
            geom["data"] = ids[kind].index(int(model.geom_dataid[g]))
        geoms.append(geom)
    return {"geoms": geoms, **{name: [take(model, i) for i in ids[kind]] for kind, (name, take) in _SHAPES.items()}}


def _kind(model: mujoco.MjModel, geom: int) -> str:
    return _GEOM(model.geom_type[geom]).name.removeprefix("mjGEOM_").lower()


def _rgba(model: mujoco.MjModel, geom: int) -> np.ndarray:
    material = model.geom_matid[geom]
    # MuJoCo's default stands for "no colour of its own".
    own = not np.array_equal(model.geom_rgba[geom], np.array([0.5, 0.5, 0.5, 1.0]))
    rgba: np.ndarray = model.geom_rgba[geom] if own or material < 0 else model.mat_rgba[material]
    return rgba


def _mesh(model: mujoco.MjModel, mesh: int) -> dict[str, np.ndarray]:
    def part(array: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
        return array[start[mesh] : start[mesh] + count[mesh]].ravel()

    return {
        "vertices": part(model.mesh_vert, model.mesh_vertadr, model.mesh_vertnum),
        "faces": part(model.mesh_face, model.mesh_faceadr, model.mesh_facenum),
        "normals": part(model.mesh_normal, model.mesh_normaladr, model.mesh_normalnum),
        "normal_faces": part(model.mesh_facenormal, model.mesh_faceadr, model.mesh_facenum),
    }


def _hfield(model: mujoco.MjModel, hfield: int) -> dict[str, np.ndarray | list[int]]:
    shape = [int(model.hfield_nrow[hfield]), int(model.hfield_ncol[hfield])]
    start = model.hfield_adr[hfield]
    heights = model.hfield_data[start : start + shape[0] * shape[1]]
    return {"size": model.hfield_size[hfield], "shape": shape, "heights": heights}


_SHAPES = {"mesh": ("meshes", _mesh), "hfield": ("hfields", _hfield)}
