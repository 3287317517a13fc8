"""The names of a robot's table, found in its MJCF."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mujoco

from ksim.errors import ConfigError
from ksim.robots.parts import Kind, Part, match

Row = TypeVar("Row")
_KINDS: tuple[Kind, ...] = ("joint", "body", "geom", "site")
_FREE, _BALL = mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL


@dataclass(frozen=True)
class Names:
    """Finds names in a robot's spec; what is not there is a ConfigError that begins with `place`, a file."""

    spec: mujoco.MjSpec
    place: str

    def find(self, key: str, patterns: str | Sequence[str], kind: Kind) -> list[str]:
        """What regexes match; `key` is where they stand in the table."""
        there = self._all(kind)
        try:
            return [there[i] for i in match(patterns, there, kind)]
        except ConfigError as error:
            raise ConfigError(f"{self.place}: {key}: {error}") from None

    def by_joint(self, rows: Mapping[str, Row], key: str) -> dict[str, Row]:
        """Each joint with its row, of rows by regex: in the rows' order, and within a row in the model's."""
        found: dict[str, Row] = {}
        for pattern, row in rows.items():
            place = f"{self.place}: {key}.{pattern}"
            for name in self.find(f"{key}.{pattern}", pattern, "joint"):
                if name in found:
                    raise ConfigError(f"{place}: the joint '{name}' is in two rows")
                if self.spec.joint(name).type == _BALL:
                    raise ConfigError(f"{place}: '{name}' is a ball joint; wanted is a hinge or a slide")
                found[name] = row
        return found

    def only(self, name: str, part: Part, kind: Kind) -> str:
        """The one name that a part has."""
        found = self.find(f"parts.{name}", part.patterns(kind), kind)
        if len(found) != 1:
            raise ConfigError(f"{self.place}: parts.{name}: must name one {kind}, not {', '.join(found)}")
        return found[0]

    def check(self, parts: Mapping[str, Part]) -> None:
        """Each regex of each part names something."""
        for name, part in parts.items():
            for kind in _KINDS:
                if patterns := part.patterns(kind):
                    self.find(f"parts.{name}", patterns, kind)

    def _all(self, kind: Kind) -> list[str]:
        joints = [joint for joint in self.spec.joints if joint.type != _FREE]
        elements = {"joint": joints, "body": self.spec.bodies, "geom": self.spec.geoms, "site": self.spec.sites}
        return [element.name for element in elements[kind]]
