"""A model in one pose on the page: a frame for each body, with what it looks like fixed to it."""

from collections.abc import Callable, Sequence

import numpy as np
import viser

from ksim.envs.markers import Rgba
from ksim.viz.viewer.web.meshes import Look

Dragged = Callable[[int, viser.SceneNodeDragEvent], None]


class Figure:
    """A robot, or its ghost. A browser moves frames without drawing the page anew, unlike copies of a mesh."""

    def __init__(
        self,
        server: viser.ViserServer,
        name: str,
        looks: Sequence[Look],
        rgba: Rgba | None = None,
        on_drag: Dragged | None = None,
    ):
        """Send the meshes to the page.

        Args:
            server: the page's.
            name: of the node in the scene's tree.
            looks: what its bodies look like.
            rgba: in place of their colours, for a ghost, which casts no shadow.
            on_drag: takes a body that the mouse drags, and viser's event.
        """
        scene = server.scene
        self._root = scene.add_frame(name, show_axes=False)
        bodies = sorted({look.body for look in looks})
        self._frames = {body: scene.add_frame(f"{name}/{body}", show_axes=False) for body in bodies}
        for i, look in enumerate(looks):
            red, green, blue, alpha = rgba or look.rgba
            mesh = scene.add_mesh_simple(
                f"{name}/{look.body}/{i}",
                look.vertices.astype(np.float32),
                look.faces.astype(np.uint32),
                color=(round(255 * red), round(255 * green), round(255 * blue)),
                opacity=None if alpha >= 1.0 else alpha,
                cast_shadow=rgba is None,
                receive_shadow=rgba is None,
            )
            if on_drag is not None:
                _attach(mesh, look.body, on_drag)

    def place(self, pos_B3: np.ndarray, wxyz_B4: np.ndarray) -> None:
        """Show it with its bodies, by id, at these positions (m) and orientations."""
        for body, frame in self._frames.items():
            frame.position = pos_B3[body]
            frame.wxyz = wxyz_B4[body]
        self._root.visible = True

    def hide(self) -> None:
        """Show it no longer."""
        self._root.visible = False


def _attach(mesh: viser.MeshHandle, body: int, on_drag: Dragged) -> None:
    @mesh.on_drag("left")
    async def _(event: viser.SceneNodeDragEvent) -> None:  # not in a thread: start, updates and end in their order
        on_drag(body, event)
