"""The interactive visualizer: a task's env driven by hand, in a window or in a browser."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ksim.viz.viewer.config import InteractiveVisualizerConfig as InteractiveVisualizerConfig
    from ksim.viz.viewer.simulation import Simulation as Simulation
    from ksim.viz.viewer.visualizer import InteractiveVisualizer as InteractiveVisualizer
    from ksim.viz.viewer.window import MujocoInteractiveVisualizer as MujocoInteractiveVisualizer

# Imported when they are asked for: a browser needs no window.
_MODULES = {
    "InteractiveVisualizer": "ksim.viz.viewer.visualizer",
    "InteractiveVisualizerConfig": "ksim.viz.viewer.config",
    "MujocoInteractiveVisualizer": "ksim.viz.viewer.window",
    "Simulation": "ksim.viz.viewer.simulation",
}
__all__ = ["InteractiveVisualizer", "InteractiveVisualizerConfig", "MujocoInteractiveVisualizer", "Simulation"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
