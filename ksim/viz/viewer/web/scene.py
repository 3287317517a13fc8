"""A MuJoCo model on a page: robots side by side, ghosts and markers, moved by nothing but `qpos`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import mujoco
import numpy as np
import trimesh
import viser

from ksim.envs.markers import Marker, Rgba
from ksim.viz.markers import ARROW, CAPSULE, SPHERE, pack, pack_ghosts
from ksim.viz.render_worker import Level
from ksim.viz.viewer.web.batch import Batch
from ksim.viz.viewer.web.figure import Figure
from ksim.viz.viewer.web.meshes import floors, looks

_ROOT = "/world"  # what moves past the camera while it follows a robot
_NEAR = 1.5  # between robots side by side, in largest extents of one
_HEAD = 2.2  # radius of an arrow's head, in radii of its shaft; it is twice as long as wide
_MAX_KINDS = 64  # shapes and colours of markers that are kept on the page while none of them is seen
_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Pull:
    """A body that somebody drags with the mouse.

    Attributes:
        robot: which of those shown.
        body: id of the body.
        grabbed: (3,) where it was taken, a point of the body, world frame of its env, m.
        target: (3,) where the mouse is, in the plane that faces the camera there, likewise.
    """

    robot: int
    body: int
    grabbed: np.ndarray
    target: np.ndarray


class WebScene:
    """What a page shows of a model.

    Attributes:
        model: the model, visual geoms included.
        on_pull: called, from the server's event loop, when a body is dragged, and with None when it is let go.
    """

    def __init__(self, server: viser.ViserServer, model: mujoco.MjModel, tracked: str | None = None):
        """Send the model to the page.

        Args:
            server: the page's.
            model: what is drawn.
            tracked: name of the body that the camera follows over the floor; None: it stays.
        """
        self.model = model
        self.on_pull: Callable[[Pull | None], None] = lambda pull: None
        self._server = server
        self._tracked = None if tracked is None else model.body(tracked).id
        self._level = Level(model, tracked)
        self._data = mujoco.MjData(model)
        self._root = server.scene.add_frame(_ROOT, show_axes=False)
        self._offset_R3 = np.zeros((0, 3))
        found = looks(model)
        Figure(server, f"{_ROOT}/fixed", [look for look in found if look.body == 0])
        self._moving = [look for look in found if look.body != 0]
        self._robots: list[Figure] = []
        self._ghosts: dict[Rgba, list[Figure]] = {}
        self._markers: dict[tuple[str, Rgba], Batch] = {}
        for geom in floors(model):
            self._add_floor(geom)

    def show(self, qpos_Rq: np.ndarray, markers_R: Sequence[Sequence[Marker]] = (), *, follow: int | None = 0) -> None:
        """Move everything, in one piece, to where it is now.

        Args:
            qpos_Rq: (R, nq) of the robots that are shown, side by side.
            markers_R: what is drawn around each of them, in its env's own coordinates.
            follow: which of them is kept before the camera; None: it stays where it is.
        """
        self._offset_R3 = offset_R3 = _side_by_side(len(qpos_Rq), _NEAR * float(self.model.stat.extent))
        pos_RB3, wxyz_RB4 = self._poses(qpos_Rq)
        ghosts = pack_ghosts(markers_R, self.model.nq)
        rows = pack(markers_R)
        with self._server.atomic():
            if follow is not None and self._tracked is not None:
                self._data.xpos[:] = pos_RB3[follow]
                x, y, _ = pos_RB3[follow, self._tracked] + offset_R3[follow]
                self._root.position = (-x, -y, -self._level.follow(self._data))
            for i, (pos_B3, wxyz_B4) in enumerate(zip(pos_RB3 + offset_R3[:, None], wxyz_RB4, strict=True)):
                self._robot(i).place(pos_B3, wxyz_B4)
            for robot in self._robots[len(qpos_Rq) :]:
                robot.hide()
            self._show_ghosts(ghosts, offset_R3)
            rows[:, 2:5] += offset_R3[rows[:, 0].astype(int)]
            rows[:, 5:8] += offset_R3[rows[:, 0].astype(int)]
            self._show_markers(rows)

    def offset(self, robot: int) -> np.ndarray:
        """(3,) what is added to coordinates of a robot's env to have the page's."""
        return np.array(self._root.position) + self._offset_R3[robot]

    def _poses(self, qpos_Nq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and orientations of the bodies, (N, nbody, 3) and (N, nbody, 4)."""
        pos_NB3 = np.empty((len(qpos_Nq), self.model.nbody, 3))
        wxyz_NB4 = np.empty((len(qpos_Nq), self.model.nbody, 4))
        for i, qpos in enumerate(qpos_Nq):
            self._data.qpos[:] = qpos
            mujoco.mj_kinematics(self.model, self._data)
            pos_NB3[i], wxyz_NB4[i] = self._data.xpos, self._data.xquat
        return pos_NB3, wxyz_NB4

    def _show_ghosts(self, rows: np.ndarray, offset_R3: np.ndarray) -> None:
        pos_NB3, wxyz_NB4 = self._poses(rows[:, 5:])
        pos_NB3 += offset_R3[rows[:, 0].astype(int), None]
        seen: dict[Rgba, int] = dict.fromkeys(self._ghosts, 0)
        for row, pos_B3, wxyz_B4 in zip(rows, pos_NB3, wxyz_NB4, strict=True):
            rgba = _rounded(row[1:5])
            figures, number = self._ghosts.setdefault(rgba, []), seen.get(rgba, 0)
            if number == len(figures):
                name = f"{_ROOT}/ghosts/{list(self._ghosts).index(rgba)}_{number}"
                figures.append(Figure(self._server, name, self._moving, rgba))
            figures[number].place(pos_B3, wxyz_B4)
            seen[rgba] = number + 1
        for rgba, figures in self._ghosts.items():
            for figure in figures[seen[rgba] :]:
                figure.hide()

    def _show_markers(self, rows: np.ndarray) -> None:
        shapes: dict[tuple[str, Rgba], list[np.ndarray]] = {}
        for row in rows:
            for shape, *placed in _pieces(int(row[1]), row[2:5], row[5:8], row[8]):
                shapes.setdefault((shape, _rounded(row[9:13])), []).append(np.concatenate(placed))
        for key in dict.fromkeys([*self._markers, *shapes]):
            if key not in self._markers:
                shape, rgba = key
                name = f"{_ROOT}/markers/{shape}/{'_'.join(f'{c:.2f}' for c in rgba)}"
                mesh = _UNIT[shape]
                self._markers[key] = Batch(self._server, name, mesh.vertices, mesh.faces, rgba)
            placed_N10 = np.array(shapes.get(key, [])).reshape(-1, 10)
            self._markers[key].place(placed_N10[:, :3], placed_N10[:, 3:7], placed_N10[:, 7:])
            if key not in shapes and len(self._markers) > _MAX_KINDS:
                self._markers.pop(key).remove()

    def _robot(self, index: int) -> Figure:
        """A robot of those side by side, sent to the page when it is first needed."""
        for new in range(len(self._robots), index + 1):
            name = f"{_ROOT}/robots/{new}"
            self._robots.append(Figure(self._server, name, self._moving, on_drag=partial(self._dragged, new)))
        return self._robots[index]

    def _dragged(self, robot: int, body: int, event: viser.SceneNodeDragEvent) -> None:
        if event.phase == "end" or robot >= len(self._offset_R3):
            self.on_pull(None)
            return
        origin = self.offset(robot)
        grabbed, target = np.array(event.start_position) - origin, np.array(event.end_position) - origin
        self.on_pull(Pull(robot, body, grabbed, target))

    def _add_floor(self, geom: int) -> None:
        model = self.model
        half_x, half_y, _ = model.geom_size[geom]
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        wxyz = np.empty(4)
        mujoco.mju_mat2Quat(wxyz, data.geom_xmat[geom])
        self._server.scene.add_grid(
            f"{_ROOT}/floor_{geom}",
            width=2 * float(half_x or 10.0),
            height=2 * float(half_y or 10.0),
            infinite_grid=bool(half_x == 0 or half_y == 0),
            cell_size=0.5,
            section_size=1.0,
            cell_color=(188, 197, 205),
            section_color=(170, 181, 191),
            plane_color=(214, 221, 227),
            plane_opacity=1.0,
            shadow_opacity=0.35,
            fade_distance=40.0,
            wxyz=wxyz,
            position=data.geom_xpos[geom],
        )


def _side_by_side(count: int, gap: float) -> np.ndarray:
    """(N, 3) places in rows of a square, the first at the origin."""
    columns = max(1, int(np.ceil(np.sqrt(count))))
    index = np.arange(count)
    return np.stack([-gap * (index // columns), -gap * (index % columns), np.zeros(count)], axis=1)


def _rounded(rgba: np.ndarray) -> Rgba:
    r, g, b, a = (round(float(c), 2) for c in rgba)
    return r, g, b, a


_UNIT = {  # radius 1; along z from 0 to 1, but for the ball
    "shaft": trimesh.creation.cylinder(radius=1.0, height=1.0, sections=16).apply_translation([0.0, 0.0, 0.5]),
    "head": trimesh.creation.cone(radius=1.0, height=1.0, sections=16),
    "ball": trimesh.creation.icosphere(subdivisions=2, radius=1.0),
}


def _pieces(
    kind: int, start: np.ndarray, end: np.ndarray, radius: float
) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """A marker as pieces: shape, position, orientation, size."""
    ball, along = np.full(3, radius), end - start
    length, still = float(np.linalg.norm(along)), np.array([1.0, 0.0, 0.0, 0.0])
    if kind == SPHERE or length == 0.0:
        return [("ball", start, still, ball)]
    wxyz = _turned_to(along / length)
    if kind == CAPSULE:
        shaft = np.array([radius, radius, length])
        return [("shaft", start, wxyz, shaft), ("ball", start, still, ball), ("ball", end, still, ball)]
    assert kind == ARROW
    head_radius = min(_HEAD * radius, length / 4)
    head = np.array([head_radius, head_radius, 2 * head_radius])
    shaft = np.array([radius, radius, length - head[2]])
    return [("shaft", start, wxyz, shaft), ("head", start + along * (shaft[2] / length), wxyz, head)]


def _turned_to(direction: np.ndarray) -> np.ndarray:
    """The rotation, wxyz, that turns z to a unit vector."""
    wxyz = np.append(1.0 + direction[2], np.cross(_UP, direction))
    length = np.linalg.norm(wxyz)
    return wxyz / length if length > 1e-6 else np.array([0.0, 1.0, 0.0, 0.0])
