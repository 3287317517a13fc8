"""Sliders for the task's commands."""

from collections.abc import Callable, Sequence

import numpy as np
import viser

from ksim.envs.managers.call import parameter
from ksim.envs.terms import Term
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.web.asked import Asked, show_value

_STEPS = 100  # of a slider

Change = Callable[[Simulation], object]


class CommandSliders:
    """A slider for each element of each command that has a range; moved by hand, it holds the command."""

    def __init__(
        self, server: viser.ViserServer, simulation: Simulation, asked: Asked, both: Callable[[Change], object]
    ):
        """Add them where the page's next elements go; nothing where the task has no such commands.

        Args:
            server: the page's.
            simulation: whose commands.
            asked: where changes go.
            both: makes a change to the simulation, and to another one that plays along.
        """
        self._simulation, self._both = simulation, both
        self._sliders: dict[str, list[viser.GuiSliderHandle[float]]] = {}
        self._held: dict[str, viser.GuiCheckboxHandle] = {}
        pose = simulation.pose
        for name, term in simulation.env.commands.terms.items():
            ranges = command_ranges(term, pose.commands[name].shape[1])
            if ranges:
                with server.gui.add_folder(f"command {name}"):
                    self._add(server.gui, asked, name, ranges)

    def update(self) -> None:
        """The sliders follow the commands that nobody holds."""
        simulation = self._simulation
        with simulation.lock:
            pose, index = simulation.pose, simulation.selected
        for name, sliders in self._sliders.items():
            if not self._held[name].value:
                for slider, value in zip(sliders, pose.commands[name][index], strict=True):
                    show_value(slider, float(np.clip(value, slider.min, slider.max)))

    def let_go(self) -> None:
        """None is held any more, as after a new draw."""
        for held in self._held.values():
            show_value(held, False)

    def _add(self, gui: viser.GuiApi, asked: Asked, name: str, ranges: Sequence[tuple[str, float, float]]) -> None:
        sliders = self._sliders[name] = [
            gui.add_slider(label, low, high, (high - low) / _STEPS, float(np.clip(0.0, low, high)))
            for label, low, high in ranges
        ]
        held = self._held[name] = gui.add_checkbox("hold", False, hint="else it is drawn as in the task")

        def hold(is_held: bool) -> None:
            show_value(held, is_held)
            value = [slider.value for slider in sliders] if is_held else None
            self._both(lambda simulation: simulation.set_command(name, value))

        for slider in sliders:
            slider.on_update(asked.by(lambda _: hold(True)))
        held.on_update(asked.by(lambda event: hold(event.target.value)))


def command_ranges(term: Term, size: int) -> list[tuple[str, float, float]]:
    """A name, the lowest and the highest value of each element; empty where the term tells none.

    They are `low` and `high`, or the first parameters `<name>_range`.

    Args:
        term: the command.
        size: elements that it has.
    """
    names = [name for name in term.parameter_names if name not in term.driven]
    if {"low", "high"} <= set(names):
        low, high = (np.ravel(parameter(term, name)).astype(float).tolist() for name in ("low", "high"))
        found = [(str(i), a, b) for i, (a, b) in enumerate(zip(low, high, strict=True))]
    else:
        ranges = [(name.removesuffix("_range"), parameter(term, name)) for name in names if name.endswith("_range")]
        found = [(name, float(r[0]), float(r[1])) for name, r in ranges[:size]]
    return found if len(found) == size and all(low < high for _, low, high in found) else []
