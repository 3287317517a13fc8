"""A simulation in the browser, from start to end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.visualizer import InteractiveVisualizer, OfSimulation
from ksim.viz.viewer.web.viewer import WebViewer


class WebInteractiveVisualizer(InteractiveVisualizer):
    """An env on a page, on `config.host` and `config.port`; a subclass says what `setup_environment` returns.

    Attributes:
        folder: where films are saved; None: in the run's `videos/`, or where there is no run, in the working directory.
    """

    folder: Path | None = None

    @contextmanager
    def open_screen(self) -> Iterator[WebViewer]:
        """The page; where it is, is printed.

        Raises:
            ConfigError: this machine has no such address.
        """
        checkpoints = self.simulation.checkpoints
        folder = self.folder or (Path() if checkpoints is None else checkpoints.run.path / "videos")
        viewer = WebViewer(self.simulation, folder)
        print(f"open {viewer.url} in a browser; Ctrl-C ends it", flush=True)
        try:
            yield viewer
        finally:
            viewer.close()


class _Page(OfSimulation, WebInteractiveVisualizer):
    """The page of a simulation."""


def show(simulation: Simulation) -> None:
    """Show a simulation on a page, until Ctrl-C.

    Raises:
        ConfigError: this machine has no such address.
    """
    _Page(simulation).run()
