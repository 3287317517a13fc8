"""Sensors that a task adds to its robot's model (`task.scene.sensors`), so that any MJCF will do.

A sensor is a function of the model's spec and the sensor's name in the task that adds what it needs before the model
compiles. Terms read it with `ctx.sensor(name)`, contacts with `ctx.contact(name)`.
"""

import re
from typing import Literal

import mujoco

from ksim.envs.contacts import SLOTS, ContactSensor
from ksim.errors import ConfigError

_TYPES = {
    "accelerometer": mujoco.mjtSensor.mjSENS_ACCELEROMETER,
    "gyro": mujoco.mjtSensor.mjSENS_GYRO,
    "velocimeter": mujoco.mjtSensor.mjSENS_VELOCIMETER,
    "magnetometer": mujoco.mjtSensor.mjSENS_MAGNETOMETER,
    "force": mujoco.mjtSensor.mjSENS_FORCE,
    "torque": mujoco.mjtSensor.mjSENS_TORQUE,
    "touch": mujoco.mjtSensor.mjSENS_TOUCH,
    "framepos": mujoco.mjtSensor.mjSENS_FRAMEPOS,
    "framequat": mujoco.mjtSensor.mjSENS_FRAMEQUAT,
    "framelinvel": mujoco.mjtSensor.mjSENS_FRAMELINVEL,
    "frameangvel": mujoco.mjtSensor.mjSENS_FRAMEANGVEL,
    "framelinacc": mujoco.mjtSensor.mjSENS_FRAMELINACC,
    "frameangacc": mujoco.mjtSensor.mjSENS_FRAMEANGACC,
}


def at_site(
    spec: mujoco.MjSpec,
    name: str,
    *,
    site: str,
    type: Literal[
        "accelerometer",
        "gyro",
        "velocimeter",
        "magnetometer",
        "force",
        "torque",
        "touch",
        "framepos",
        "framequat",
        "framelinvel",
        "frameangvel",
        "framelinacc",
        "frameangacc",
    ],
) -> None:
    """One of MuJoCo's sensors at a site, in MuJoCo's units.

    Args:
        spec: the model's.
        name: the sensor's.
        site: name of the site.
        type: what it measures, by MuJoCo's name.

    Raises:
        ConfigError: there is no such site.
    """
    sites = [s.name for s in spec.sites]
    if site not in sites:
        raise ConfigError(f"site: there is no site {site!r}; there are: {', '.join(n for n in sites if n)}")
    spec.add_sensor(name=name, type=_TYPES[type], objtype=mujoco.mjtObj.mjOBJ_SITE, objname=site)


def contact(
    spec: mujoco.MjSpec,
    name: str,
    *,
    bodies: str | None = None,
    geoms: str | None = None,
    against: str | None = None,
    track_time: bool = False,
) -> ContactSensor:
    """Contacts of bodies, or of geoms: one element for each.

    Args:
        spec: the model's.
        name: the sensor's.
        bodies: regex of the bodies' names; a body's contacts are those of its own geoms that collide.
        geoms: regex of the geoms' names, in place of bodies.
        against: name of the one geom, such as the floor, contacts with which count; None for all.
        track_time: also keep for how long each element has been in contact or in the air.

    Raises:
        ConfigError: nothing matches, or a body has no geom that collides.
    """
    if (bodies is None) == (geoms is None):
        raise ConfigError("give either 'bodies' or 'geoms', a regex of names")
    if geoms is not None:
        found = {geom.name: [geom] for geom in spec.geoms if geom.name and _matches(geoms, geom.name)}
    else:
        assert bodies is not None
        found = {
            body.name: [geom for geom in body.geoms if geom.contype or geom.conaffinity]
            for body in spec.bodies
            if body.name and _matches(bodies, body.name)
        }
    if not found:
        kind, pattern = ("body", bodies) if geoms is None else ("geom", geoms)
        names = [x.name for x in (spec.bodies if geoms is None else spec.geoms) if x.name]
        raise ConfigError(f"no {kind} matches {pattern!r}; there are: {', '.join(names)}")
    if against is not None and against not in [geom.name for geom in spec.geoms]:
        raise ConfigError(f"against: there is no geom {against!r}")
    elements = []
    for element, own in found.items():
        if not own:
            raise ConfigError(f"bodies: {element!r} has no geom that collides")
        sensors = []
        for i, geom in enumerate(own):
            geom.name = geom.name or f"{element}/{i}"
            sensors.append(_add_contact(spec, f"{name}/{geom.name}", geom.name, against))
        elements.append(tuple(sensors))
    return ContactSensor(name, tuple(found), tuple(elements), track_time)


def _add_contact(spec: mujoco.MjSpec, name: str, geom: str, against: str | None) -> str:
    """Found and force of a geom's deepest contacts; matching by geom is what MJX has, too."""
    fields = (mujoco.mjtConDataField.mjCONDATA_FOUND, mujoco.mjtConDataField.mjCONDATA_FORCE)
    data = sum(1 << field.value for field in fields)
    # Not the strongest first: MJX 3.17 then gives a contact without force that of another geom.
    deepest_first = 1
    sensor = spec.add_sensor(
        name=name,
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=mujoco.mjtObj.mjOBJ_GEOM,
        objname=geom,
        intprm=[data, deepest_first, SLOTS],
    )
    if against is not None:
        sensor.reftype = mujoco.mjtObj.mjOBJ_GEOM
        sensor.refname = against
    return name


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ConfigError(f"{pattern!r} is not a regular expression: {error}") from None
