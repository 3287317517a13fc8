"""A MuJoCo model as triangles: what each body looks like, in the body's own frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import trimesh

from ksim.envs.markers import Rgba

_GEOM = mujoco.mjtGeom
_VISIBLE_GROUPS = 3  # the first three, as in MuJoCo's own viewer
_SHARP = np.radians(30.0)  # faces that meet at more share no vertices, and so no normals: an edge is seen
_UNSET_RGBA = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # a geom without a colour of its own shows its material's


@dataclass(frozen=True)
class Look:
    """Everything of one colour that is fixed to one body.

    Attributes:
        body: id of the body.
        rgba: its colour, each from 0 to 1.
        vertices: (V, 3) in the body's frame, m.
        faces: (F, 3) indices of vertices, counter-clockwise seen from outside.
    """

    body: int
    rgba: Rgba
    vertices: np.ndarray
    faces: np.ndarray


def looks(model: mujoco.MjModel) -> list[Look]:
    """What the bodies look like; planes, which have no end, are not among it, nor is what MuJoCo's viewer hides."""
    found: dict[tuple[int, Rgba], list[trimesh.Trimesh]] = {}
    for geom in range(model.ngeom):
        rgba = _rgba(model, geom)
        is_plane = model.geom_type[geom] == _GEOM.mjGEOM_PLANE.value
        if is_plane or model.geom_group[geom] >= _VISIBLE_GROUPS or rgba[3] == 0:
            continue
        mesh = geom_mesh(model, geom)
        mesh.apply_transform(_transform(model.geom_pos[geom], model.geom_quat[geom]))
        mesh = trimesh.graph.smooth_shade(mesh, angle=_SHARP)
        found.setdefault((int(model.geom_bodyid[geom]), rgba), []).append(mesh)
    return [Look(body, rgba, *_merged(meshes)) for (body, rgba), meshes in found.items()]


def geom_mesh(model: mujoco.MjModel, geom: int) -> trimesh.Trimesh:
    """A geom's surface in its own frame.

    Raises:
        ValueError: a plane, or a type that has no surface.
    """
    kind, size = _GEOM(model.geom_type[geom]), model.geom_size[geom]
    match kind:
        case _GEOM.mjGEOM_SPHERE:
            return trimesh.creation.icosphere(subdivisions=3, radius=size[0])
        case _GEOM.mjGEOM_ELLIPSOID:
            return trimesh.creation.icosphere(subdivisions=3, radius=1.0).apply_scale(size)
        case _GEOM.mjGEOM_CAPSULE:
            return trimesh.creation.capsule(radius=size[0], height=2 * size[1], count=(24, 24))
        case _GEOM.mjGEOM_CYLINDER:
            return trimesh.creation.cylinder(radius=size[0], height=2 * size[1], sections=32)
        case _GEOM.mjGEOM_BOX:
            return trimesh.creation.box(extents=2 * size)
        case _GEOM.mjGEOM_MESH | _GEOM.mjGEOM_SDF:
            return _stored_mesh(model, model.geom_dataid[geom])
        case _GEOM.mjGEOM_HFIELD:
            return _height_field(model, model.geom_dataid[geom])
    raise ValueError(f"geom {geom}, {kind.name}, has no surface to draw")


def floors(model: mujoco.MjModel) -> list[int]:
    """Ids of the planes that can be seen."""
    planes = np.flatnonzero(model.geom_type == _GEOM.mjGEOM_PLANE.value).tolist()
    return [i for i in planes if model.geom_group[i] < _VISIBLE_GROUPS and _rgba(model, i)[3] > 0]


def _merged(meshes: Sequence[trimesh.Trimesh]) -> tuple[np.ndarray, np.ndarray]:
    first = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, first[:-1], strict=True)]
    return np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces)


def _rgba(model: mujoco.MjModel, geom: int) -> Rgba:
    own, material = model.geom_rgba[geom], model.geom_matid[geom]
    r, g, b, a = own if material < 0 or (own != _UNSET_RGBA).any() else model.mat_rgba[material]
    return float(r), float(g), float(b), float(a)


def _stored_mesh(model: mujoco.MjModel, mesh: int) -> trimesh.Trimesh:
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    faces = model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]
    return trimesh.Trimesh(np.array(vertices), np.array(faces), process=False)


def _height_field(model: mujoco.MjModel, field: int) -> trimesh.Trimesh:
    """The upper surface, without the block below it."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    half_x, half_y, height, _ = model.hfield_size[field]
    z = model.hfield_data[model.hfield_adr[field] :][: rows * columns] * height
    x, y = np.meshgrid(np.linspace(-half_x, half_x, columns), np.linspace(-half_y, half_y, rows))
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (corner.ravel() for corner in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    faces = np.concatenate([np.stack([a, b, d], axis=1), np.stack([a, d, c], axis=1)])
    return trimesh.Trimesh(np.stack([x.ravel(), y.ravel(), z], axis=1), faces, process=False)


def _transform(pos: np.ndarray, quat: np.ndarray) -> np.ndarray:
    matrix, rotation = np.eye(4), np.empty(9)
    mujoco.mju_quat2Mat(rotation, quat)
    matrix[:3, :3], matrix[:3, 3] = rotation.reshape(3, 3), pos
    return matrix
