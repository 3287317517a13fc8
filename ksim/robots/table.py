"""robot.yaml: the figures of a robot that its MJCF does not hold, read and checked."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ksim.errors import ConfigError


@dataclass(frozen=True)
class JointRow:
    """One actuated joint; units as in ``Robot``."""

    type: str
    kp: float
    kd: float
    torque_limit: float
    max_torque: float
    max_velocity: float
    armature: float


@dataclass(frozen=True)
class Table:
    """A checked robot.yaml."""

    mjcf: Path
    base_body: str
    imu_site: str | None
    foot_sites: tuple[str, ...]
    foot_geoms: tuple[str, ...]
    joints: dict[str, JointRow]
    home_base_pos: tuple[float, float, float] | None
    """Position of a floating base in the home pose, m; None: the base is fixed."""
    home_joint_pos: dict[str, float]
    mirror: dict[str, tuple[str, int]] | None
    """For each actuated joint: the joint whose angle it takes, and the sign."""


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no word is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def read(path: Path) -> Table:
    """Read a robot.yaml; raises ConfigError for one that is not right."""
    try:
        data = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as e:
        raise ConfigError(f"task.scene.robot: {path}: {' '.join(str(e).split())}") from None
    return _Reader(path).table(data)


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, where: str, what: str) -> ConfigError:
        return ConfigError(f"task.scene.robot: {self.path}: {where + ': ' if where else ''}{what}")

    def table(self, data: Any) -> Table:
        top = self.mapping(
            "",
            data,
            required=("mjcf", "base_body", "actuator_types", "joints", "home"),
            optional=("imu_site", "foot_sites", "foot_geoms", "mirror"),
        )
        types = {
            name: self.numbers(f"actuator_types.{name}", row, ("max_torque", "max_velocity", "armature"))
            for name, row in self.mapping("actuator_types", top["actuator_types"]).items()
        }
        joints = {
            name: self.row(f"joints.{name}", row, types) for name, row in self.mapping("joints", top["joints"]).items()
        }
        if not joints:
            raise self.fail("joints", "no actuated joint")
        home = self.mapping("home", top["home"], required=("joint_pos",), optional=("base_pos",))
        joint_pos = self.mapping("home.joint_pos", home["joint_pos"])
        for name in joints:
            if name not in joint_pos:
                raise self.fail("home.joint_pos", f"no angle for joint '{name}'{nearest(name, joint_pos)}")
        base_pos = home.get("base_pos")
        if base_pos is not None and not (isinstance(base_pos, list) and len(base_pos) == 3):
            raise self.fail("home.base_pos", f"wants three numbers [x, y, z], not {base_pos!r}")
        imu_site = top.get("imu_site")
        return Table(
            mjcf=self.path.parent / self.text("mjcf", top["mjcf"]),
            base_body=self.text("base_body", top["base_body"]),
            imu_site=None if imu_site is None else self.text("imu_site", imu_site),
            foot_sites=self.texts("foot_sites", top.get("foot_sites")),
            foot_geoms=self.texts("foot_geoms", top.get("foot_geoms")),
            joints=joints,
            home_base_pos=None if base_pos is None else self.position("home.base_pos", base_pos),
            home_joint_pos={name: self.number(f"home.joint_pos.{name}", x) for name, x in joint_pos.items()},
            mirror=self.mirror(top.get("mirror"), joints),
        )

    def row(self, where: str, data: Any, types: dict[str, dict[str, float]]) -> JointRow:
        row = self.mapping(where, data, required=("type", "kp", "kd", "torque_limit"), optional=())
        type_ = self.text(f"{where}.type", row.pop("type"))
        if type_ not in types:
            raise self.fail(
                f"{where}.type", f"unknown actuator type '{type_}'{nearest(type_, types)}; there are: {_list(types)}"
            )
        return JointRow(type=type_, **self.numbers(where, row, ("kp", "kd", "torque_limit")), **types[type_])

    def mirror(self, data: Any, joints: Mapping[str, JointRow]) -> dict[str, tuple[str, int]] | None:
        if data is None:
            return None
        mirror: dict[str, tuple[str, int]] = {}
        for name, pair in self.mapping("mirror", data).items():
            where = f"mirror.{name}"
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and pair[1] in (1, -1)):
                raise self.fail(where, f"wants [joint, sign] with sign 1 or -1, not {pair!r}")
            other, sign = pair[0], int(pair[1])
            # The way back has the same sign, so that mirroring twice gives the pose itself.
            for a, b in ((name, other), (other, name)):
                if a not in joints:
                    raise self.fail(where, f"no actuated joint '{a}'{nearest(a, joints)}")
                if mirror.get(a, (b, sign)) != (b, sign):
                    raise self.fail(where, f"joint '{a}' has two mirrored joints")
                mirror[a] = (b, sign)
        if missing := [name for name in joints if name not in mirror]:
            raise self.fail("mirror", f"no mirrored joint for {_list(missing)}")
        return mirror

    def mapping(
        self, where: str, data: Any, required: tuple[str, ...] = (), optional: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """A mapping with string keys; where ``optional`` is given, no keys but the named ones."""
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            raise self.fail(where, f"wants a mapping from names, not {data!r:.60}")
        if optional is not None:
            known = required + optional
            for key in data:
                if key not in known:
                    raise self.fail(where, f"unknown key '{key}'{nearest(key, known)}; known are: {_list(known)}")
        if missing := [key for key in required if data.get(key) is None]:
            raise self.fail(where, f"missing {_list(missing)}")
        return dict(data)

    def numbers(self, where: str, data: Any, keys: tuple[str, ...]) -> dict[str, float]:
        """Non-negative numbers under exactly these keys."""
        row = self.mapping(where, data, required=keys, optional=())
        values = {key: self.number(f"{where}.{key}", row[key]) for key in keys}
        for key, value in values.items():
            if value < 0:
                raise self.fail(f"{where}.{key}", f"must not be negative, is {value:g}")
        return values

    def number(self, where: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fail(where, f"wants a number, not {value!r}")
        return float(value)

    def position(self, where: str, values: list[Any]) -> tuple[float, float, float]:
        x, y, z = (self.number(where, value) for value in values)
        return x, y, z

    def text(self, where: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self.fail(where, f"wants a name, not {value!r}")
        return value

    def texts(self, where: str, values: Any) -> tuple[str, ...]:
        if values is None:
            return ()
        if not isinstance(values, list):
            raise self.fail(where, f"wants a list of names, not {values!r}")
        return tuple(self.text(where, value) for value in values)


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
