"""What a viewer of one's own derives from: an env to show, and a loop that holds it."""

import abc
import time
from contextlib import AbstractContextManager
from typing import Protocol

from ksim.envs.env import Env
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.reward_plot import RewardPlot
from ksim.viz.viewer.simulation import Simulation

_TURN_S = 1.0 / 60.0  # of the loop; a screen may draw more rarely


class Screen(Protocol):
    """Where a simulation is shown, and where keys and mouse come from."""

    def is_open(self) -> bool:
        """Whether the person still looks."""
        ...

    def update(self) -> None:
        """Do what the person has asked for since the last time, and show the simulation as it is, if that is due."""
        ...


class InteractiveVisualizer(abc.ABC):
    """A loop around a `Simulation`: `setup_environment` says what is shown, `open_screen` where.

    Attributes:
        config: the settings.
        simulation: what is driven; there from the start of `run` on.
    """

    simulation: Simulation

    def __init__(self, config: InteractiveVisualizerConfig | None = None):
        """Nothing is built before `run`."""
        self.config = config or InteractiveVisualizerConfig()

    @abc.abstractmethod
    def setup_environment(self) -> Env:
        """The env to show, as `ksim.make` gives one."""

    def setup_simulation(self, env: Env) -> Simulation:
        """What is driven: one copy of the env, with actions of zeros."""
        return Simulation(env, self.config)

    @abc.abstractmethod
    def open_screen(self) -> AbstractContextManager[Screen]:
        """Show `simulation`; what is opened is closed when the context ends, in whatever way."""

    def run(self) -> None:
        """Show it until it is closed; rewards are plotted meanwhile.

        Raises:
            KsimError: it cannot be built, or not be shown here.
        """
        self.simulation = self.setup_simulation(self.setup_environment())
        with RewardPlot(self.simulation.history, self.config), self.open_screen() as screen:
            while screen.is_open():
                start = time.monotonic()
                self.simulation.advance()
                screen.update()
                time.sleep(max(_TURN_S - (time.monotonic() - start), 0.001))


class OfSimulation(InteractiveVisualizer):
    """Shows a simulation that is there already; goes before the class that says where."""

    def __init__(self, simulation: Simulation):
        """Nothing is opened before `run`."""
        super().__init__(simulation.cfg)
        self.simulation = simulation

    def setup_environment(self) -> Env:
        """The simulation's."""
        return self.simulation.env

    def setup_simulation(self, env: Env) -> Simulation:
        """It is there."""
        return self.simulation
