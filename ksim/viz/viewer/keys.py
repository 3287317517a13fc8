"""The keys of the window, and what each does to a simulation."""

from collections.abc import Callable
from dataclasses import dataclass

import mujoco

from ksim.viz.viewer.simulation import Simulation

# Codes of mjtKey's that have no character.
_NAMED = {
    "Backspace": 259,
    "Right": 262,
    "Left": 263,
    "Down": 264,
    "Up": 265,
    "Space": ord(" "),
}
_CODES = {code: name for name, code in _NAMED.items()}
_SPEEDS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# What stands in one line of the help.
_ROWS: tuple[tuple[str, ...], ...] = (
    ("Space",), ("N",), ("S",), ("Up", "Down"), ("Right", "Left"), ("P", "L"), ("Q", "E"), (";", "'"), (".", "/"),
    ("V",), ("R",), ("Backspace",), ("H", "C"), ("-", "="), ("K",),
)  # fmt: skip


def name_of(code: int) -> str | None:
    """The key of a code that MuJoCo's viewer gives, as `Keys.table` names it; None for Shift and its like."""
    return _CODES.get(code) or (chr(code).upper() if 0 < code < 128 else None)


@dataclass(frozen=True)
class Key:
    """What a key does, in words, and as a function."""

    does: str
    press: Callable[[], None]


class Keys:
    """The keys of a window.

    MuJoCo's viewer does not say whether Shift is held, so `V` changes over between position and velocity. A letter here
    is also one of that viewer's own switches of what is drawn; `window.py` puts the switch back.

    Attributes:
        table: key to what it does.
        moves_velocity: the keys that move change the velocity.
        shows_help: the table is on the screen.
    """

    def __init__(self, simulation: Simulation):
        """Keys that act on a simulation."""
        self.simulation = simulation
        self.moves_velocity = False
        self.shows_help = False
        self.table = self._table()

    def press(self, name: str) -> None:
        """What happens when a key is pressed; nothing where it has no meaning."""
        if name in self.table:
            self.table[name].press()

    def help(self) -> tuple[str, str]:
        """The table as two columns of text."""
        moved = "velocity" if self.moves_velocity else "position"
        does = {name: key.does.format(moved=moved) for name, key in self.table.items()}
        rows = [row for row in _ROWS if row[0] in does] + [(name,) for name in does if name not in sum(_ROWS, ())]
        return "\n".join(map(" ".join, rows)), "\n".join(", ".join(does[name] for name in row) for row in rows)

    def _table(self) -> dict[str, Key]:
        sim = self.simulation
        return {
            "Space": Key("pause, go on", self._pause),
            "N": Key("one step", sim.step),
            "S": Key("suspend in place, let go", sim.suspend),
            "Up": self._mover("+x", "x", 1),
            "Down": self._mover("-x", "x", -1),
            "Right": self._mover("+y", "y", 1),
            "Left": self._mover("-y", "y", -1),
            "P": self._mover("up", "z", 1),
            "L": self._mover("down", "z", -1),
            "Q": self._mover("yaw left", "yaw", 1),
            "E": self._mover("right", "yaw", -1),
            ";": self._mover("roll left", "roll", -1),
            "'": self._mover("right", "roll", 1),
            ".": self._mover("pitch up", "pitch", -1),
            "/": self._mover("down", "pitch", 1),
            "V": Key("these change the {moved}: change over", self._change_over),
            "R": Key("initial joints and orientation", sim.initial_pose),
            "Backspace": Key("a new episode", sim.reset),
            "H": Key("next keyframe", sim.next_keyframe),
            "C": Key("command", sim.next_command),
            "-": Key("slower", lambda: self._hurry(-1)),
            "=": Key("faster", lambda: self._hurry(1)),
            "K": Key("these keys", self._help),
        }

    def _mover(self, does: str, axis: str, sign: int) -> Key:
        def press() -> None:
            cfg, sim = self.simulation.cfg, self.simulation
            change = sim.push if self.moves_velocity else sim.move
            if axis in "xyz":
                size = cfg.velocity_step if self.moves_velocity else cfg.position_step_m
                change([sign * size if name == axis else 0.0 for name in "xyz"])
            else:
                size = cfg.angular_velocity_step if self.moves_velocity else cfg.rotation_step_rad
                change(**{axis: sign * size})

        return Key(does, press)

    def _pause(self) -> None:
        self.simulation.paused = not self.simulation.paused

    def _change_over(self) -> None:
        self.moves_velocity = not self.moves_velocity
        self.simulation.message = f"keys change the {'velocity' if self.moves_velocity else 'position'}"

    def _hurry(self, direction: int) -> None:
        nearest = min(range(len(_SPEEDS)), key=lambda i: abs(_SPEEDS[i] - self.simulation.speed))
        self.simulation.speed = _SPEEDS[min(max(nearest + direction, 0), len(_SPEEDS) - 1)]
        self.simulation.message = f"{self.simulation.speed:g}x"

    def _help(self) -> None:
        self.shows_help = not self.shows_help


def drawing_switches() -> tuple[dict[str, int], dict[str, int]]:
    """What MuJoCo's viewer itself does at a key: the flag of `mjvOption`, and that of `mjvScene`, which it flips."""
    options = {row[2]: i for i, row in enumerate(mujoco.mjVISSTRING) if row[2]}
    scenes = {row[2]: i for i, row in enumerate(mujoco.mjRNDSTRING) if row[2]}
    return options, scenes
