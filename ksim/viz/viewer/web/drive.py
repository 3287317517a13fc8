"""Time, episodes and the base on the page: buttons, and keys that do the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import viser
from viser._messages import HotkeyKey
from viser._messages import KeyModifier as Modifier

from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.web.asked import Asked

_SPEEDS = {"1/8x": 1 / 8, "1/4x": 1 / 4, "1/2x": 1 / 2, "1x": 1.0, "2x": 2.0, "4x": 4.0, "8x": 8.0}
_MOVES: dict[str, tuple[HotkeyKey, str, tuple[int, ...], str]] = {  # key, its name, direction, what turns
    "+x": ("arrowup", "↑", (1, 0, 0), ""),
    "-x": ("arrowdown", "↓", (-1, 0, 0), ""),
    "+y": ("arrowright", "→", (0, 1, 0), ""),
    "-y": ("arrowleft", "←", (0, -1, 0), ""),
    "up": ("P", "P", (0, 0, 1), ""),
    "down": ("L", "L", (0, 0, -1), ""),
    "yaw +": ("Q", "Q", (1,), "yaw"),
    "yaw -": ("E", "E", (-1,), "yaw"),
    "roll +": ("O", "O", (1,), "roll"),
    "roll -": ("U", "U", (-1,), "roll"),
    "pitch +": ("I", "I", (1,), "pitch"),
    "pitch -": ("K", "K", (-1,), "pitch"),
}


@dataclass(frozen=True)
class Key:
    """A key, as people call it, what it does, and the key as viser calls it."""

    key: str
    does: str
    hotkey: HotkeyKey


class Driving:
    """The elements that drive a simulation.

    Attributes:
        keys: what keys do.
    """

    def __init__(
        self, server: viser.ViserServer, simulation: Simulation, asked: Asked, put: Callable[[], object] = lambda: None
    ):
        """Add them where the page's next elements go.

        Args:
            server: the page's.
            simulation: what is driven.
            asked: where actions go.
            put: is called after the robot was put somewhere else.
        """
        self.keys: list[Key] = []
        self._gui, self._simulation, self._asked, self._put = server.gui, simulation, asked, put
        self._add_time()
        self._add_episodes()
        if simulation.env.scene.base_qpos_adr is not None:
            self._add_base()

    def add_next_command(self, drawn: Callable[[], object]) -> None:
        """Add what draws all commands anew, where the task has any.

        Args:
            drawn: is called then.
        """
        if not self._simulation.env.commands.terms:
            return

        def draw() -> None:
            self._simulation.next_command()
            drawn()
            self._put()

        self._gui.add_button("Next command").on_click(self._asked.by(lambda _: draw()))
        self._bind("C", "C", "draw the commands anew", draw)

    def update(self) -> None:
        """Show what has become of it."""
        paused = self._simulation.paused
        self._pause.label = "Resume" if paused else "Pause"
        self._pause.icon = viser.Icon.PLAYER_PLAY if paused else viser.Icon.PLAYER_PAUSE

    def _add_time(self) -> None:
        simulation, asked = self._simulation, self._asked

        def toggle() -> None:
            simulation.paused = not simulation.paused

        self._pause = self._gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE)
        self._pause.on_click(asked.by(lambda _: toggle()))
        self._bind("space", "Space", "pause and resume", toggle)
        names = {value: name for name, value in _SPEEDS.items()}
        initial = names.get(simulation.speed, f"{simulation.speed:g}x")
        speeds = _SPEEDS | {initial: simulation.speed}
        speed = self._gui.add_dropdown("speed", tuple(speeds), initial_value=initial)
        speed.on_update(asked.by(lambda event: setattr(simulation, "speed", speeds[event.target.value])))

    def _add_episodes(self) -> None:
        simulation = self._simulation
        actions: dict[str, tuple[HotkeyKey, str, Callable[[], object]]] = {
            "Step": ("N", "one env step", simulation.step),
            "Reset": ("backspace", "a fresh episode", simulation.reset),
            "Suspend": ("S", "hold the base where it is, or let it go", simulation.suspend),
            "Home": ("R", "joints and orientation as in the home pose", simulation.initial_pose),
            "Keyframe": ("H", "the next keyframe", simulation.next_keyframe),
        }

        def act(label: str) -> None:
            actions[label][2]()
            if label != "Step":
                self._put()

        for name, labels in (("episode", ("Step", "Reset")), ("pose", ("Suspend", "Home", "Keyframe"))):
            buttons = self._gui.add_button_group(name, labels)
            buttons.on_click(self._asked.by(lambda event: act(event.target.value)))
        for label, (key, does, _) in actions.items():
            self._bind(key, key.capitalize(), does, partial(act, label))

    def _add_base(self) -> None:
        with self._gui.add_folder("base", expand_by_default=False):
            self._velocity = self._gui.add_checkbox("velocity", False, hint="change the velocity in place of the pose")
            for labels in (("+x", "-x", "+y", "-y"), ("up", "down", "yaw +", "yaw -"),
                           ("roll +", "roll -", "pitch +", "pitch -")):  # fmt: skip
                buttons = self._gui.add_button_group("", labels)
                buttons.on_click(self._asked.by(lambda event: self._move(event.target.value)))
        for label, (key, name, _, turns) in _MOVES.items():
            does = f"turn the base: {label}" if turns else f"move the base: {label}"
            self._bind(key, name, does, partial(self._move, label))
            shifted = f"likewise its {'angular ' if turns else ''}velocity"
            self._bind(key, f"Shift {name}", shifted, partial(self._move, label, velocity=True), "shift")

    def _move(self, label: str, *, velocity: bool | None = None) -> None:
        """Move or turn the base, or change its velocity; None: as the checkbox says."""
        velocity = self._velocity.value if velocity is None else velocity
        _, _, direction, turns = _MOVES[label]
        cfg, simulation = self._simulation.cfg, self._simulation
        change = simulation.push if velocity else simulation.move
        if turns:
            change(**{turns: direction[0] * (cfg.angular_velocity_step if velocity else cfg.rotation_step_rad)})
        else:
            change(np.array(direction) * (cfg.velocity_step if velocity else cfg.position_step_m))
        self._put()

    def _bind(
        self, key: HotkeyKey, name: str, does: str, action: Callable[[], object], modifier: Modifier | None = None
    ) -> None:
        command = self._gui.add_command(does, hotkey=key, modifier=modifier)
        command.on_trigger(self._asked.by(lambda _: action()))
        self.keys.append(Key(name, does, key))
