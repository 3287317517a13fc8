"""robot.yaml: the figures of a robot that its MJCF does not hold, read and checked."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ksim.config.fields import setting
from ksim.config.values import build
from ksim.config.words import one_line, shown
from ksim.errors import ConfigError
from ksim.robots.parts import Part


@dataclass(frozen=True, kw_only=True)
class JointRow:
    """Actuated joints; units as in `Robot`."""

    kp: float = setting(at_least=0)
    kd: float = setting(at_least=0)
    torque_limit: float = setting(at_least=0)
    armature: float | None = setting(None, at_least=0)  # None: the MJCF's


@dataclass(frozen=True, kw_only=True)
class Home:
    """The pose in which a robot stands before a task moves it."""

    base_pos: tuple[float, float, float] | None = None  # of a floating base, m; None: the base is fixed
    joint_pos: dict[str, float] = field(default_factory=dict)  # by regex, rad or m; other joints are as in the MJCF

    def __post_init__(self) -> None:
        for value in (*(self.base_pos or ()), *self.joint_pos.values()):
            if not math.isfinite(value):
                raise ValueError(f"a position must be finite, not {value:g}")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A robot.yaml; keys of `joints`, `home.joint_pos` and `mirror` are regexes, and no joint is in two rows of one."""

    mjcf: str  # path relative to the robot.yaml (`${oc.env:FOLDER}/robot.xml`), or package://<package>/<path in it>
    install: str | None = None  # what to do where the MJCF's package is missing; None: pip install it
    # Regex of the geoms that collide, with the ground and props alone; their friction counts. None: as in the MJCF.
    collisions: str | None = None
    parts: dict[str, Part]  # by name; `base` is one body, `imu` one site
    joints: dict[str, JointRow]  # the order of the controls: that of the rows, and within a row that of the MJCF
    home: Home = Home()
    mirror: dict[str, tuple[str, int]] | None = None  # joints -> the joint whose angle each takes, and the sign

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if not name.isidentifier():
                raise ValueError(f"the name of a part is made of letters, digits and _: not {name!r}")
            if not any(getattr(part, kind.name) for kind in fields(part)):
                raise ValueError(f"the part '{name}' names nothing")
        if not self.parts.get("base", Part()).bodies:
            raise ValueError("'parts.base' is missing: {bodies: <the body that the others hang on>}")
        if not self.joints:
            raise ValueError("'joints' names no joint")
        for name, (_, sign) in (self.mirror or {}).items():
            if sign not in (1, -1):
                raise ValueError(f"'mirror.{name}' must be [joint, sign] with sign 1 or -1, not {sign}")


def read(path: Path) -> Table:
    """Read a robot.yaml.

    Raises:
        ConfigError: naming the file and the key, for one that is not right.
    """
    place = f"task.scene.robot: {path}"
    try:
        data = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as e:
        raise ConfigError(f"{place}: {one_line(e)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{place}: must be a mapping, not {shown(data)}")
    root = "robot.yaml"
    try:
        table: Table = build(Table, {str(key): value for key, value in data.items()}, root)
    except ConfigError as e:
        raise ConfigError(f"{place}: {str(e).removeprefix(root).lstrip('.: ')}") from None
    return table
