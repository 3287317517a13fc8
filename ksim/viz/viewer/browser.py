"""A simulation in the browser, from start to end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ksim.envs import Env
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.visualizer import InteractiveVisualizer
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


class _Served(WebInteractiveVisualizer):
    """The page of a simulation that is there already."""

    def __init__(self, simulation: Simulation):
        super().__init__(simulation.cfg)
        self.simulation = simulation

    def setup_environment(self) -> Env:
        return self.simulation.env

    def setup_simulation(self, env: Env) -> Simulation:
        return self.simulation


def serve(simulation: Simulation) -> None:
    """Show a simulation on a page, until Ctrl-C.

    Raises:
        ConfigError: this machine has no such address.
    """
    _Served(simulation).run()
