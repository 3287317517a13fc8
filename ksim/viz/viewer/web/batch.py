"""Many copies of one mesh on the page, each where it is told to be."""

import numpy as np
import viser

from ksim.envs.markers import Rgba


class Batch:
    """Any number of copies of a mesh in one colour, none to begin with; they cast no shadow."""

    def __init__(self, server: viser.ViserServer, name: str, vertices: np.ndarray, faces: np.ndarray, rgba: Rgba):
        """Send the mesh to the page.

        Args:
            server: the page's.
            name: of the node in the scene's tree.
            vertices, faces: (V, 3), (F, 3) the mesh.
            rgba: the colour, each from 0 to 1.
        """
        self._handle = server.scene.add_batched_meshes_simple(
            name,
            vertices,
            faces,
            batched_wxyzs=np.array([[1.0, 0.0, 0.0, 0.0]]),
            batched_positions=np.zeros((1, 3)),
            batched_scales=np.ones((1, 3)),
            batched_colors=_linear(rgba),
            opacity=None if rgba[3] >= 1.0 else rgba[3],
            lod="off",  # what is simplified from afar flickers when it moves
            cast_shadow=False,
            visible=False,
        )

    def remove(self) -> None:
        """Take it from the page."""
        self._handle.remove()

    def place(self, pos_N3: np.ndarray, wxyz_N4: np.ndarray, scale_N3: np.ndarray | None = None) -> None:
        """Show so many copies: positions in m, orientations, and factors of their size along their own axes."""
        if len(pos_N3):
            self._handle.batched_positions = pos_N3.astype(np.float32)
            self._handle.batched_wxyzs = wxyz_N4.astype(np.float32)
            scale_N3 = np.ones_like(pos_N3) if scale_N3 is None else scale_N3
            self._handle.batched_scales = scale_N3.astype(np.float32)
        self._handle.visible = len(pos_N3) > 0


def _linear(rgba: Rgba) -> tuple[int, int, int]:
    """The colour as viser wants those of copies: linear in the light, where MuJoCo's, like a screen's, are sRGB's."""
    srgb = np.asarray(rgba[:3])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    red, green, blue = (round(255 * float(c)) for c in linear)
    return red, green, blue
