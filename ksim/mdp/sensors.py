"""Sensors that a task adds to its robot's model (`task.scene.sensors`), so that any MJCF will do.

A sensor is a function of the robot and the sensor's name in the task that adds what it needs to the robot's spec before
the model compiles. Terms read it with `ctx.sensor(name)`, contacts with `ctx.contact(name)`.
"""

from typing import Literal

import mujoco

from ksim.envs.contacts import SLOTS, ContactSensor
from ksim.errors import ConfigError
from ksim.robots import Robot
from ksim.robots.parts import Bodies, Geoms, Sites, match

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
    robot: Robot,
    name: str,
    *,
    site: Sites,
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
        robot: the task's.
        name: the sensor's.
        site: the one site, by a part's name such as `imu` or by a regex.
        type: what it measures, by MuJoCo's name.

    Raises:
        ConfigError: there is no such site, or more than one.
    """
    sites = [s.name for s in robot.spec.sites]
    found = [sites[i] for i in match(site, sites, "site", robot.parts)]
    if len(found) != 1:
        raise ConfigError(f"site: must name one site, not {', '.join(found)}")
    robot.spec.add_sensor(name=name, type=_TYPES[type], objtype=mujoco.mjtObj.mjOBJ_SITE, objname=found[0])


def contact(
    robot: Robot,
    name: str,
    *,
    bodies: Bodies | None = None,
    geoms: Geoms | None = None,
    against: str | None = None,
    track_time: bool = False,
) -> ContactSensor:
    """Contacts of bodies, or of geoms: one element for each.

    Args:
        robot: the task's.
        name: the sensor's.
        bodies: bodies, by part or regex; a body's contacts are those of its own geoms that collide.
        geoms: geoms, by part or regex, in place of bodies.
        against: name of the one geom, such as the floor, contacts with which count; None for all.
        track_time: also keep for how long each element has been in contact or in the air.

    Raises:
        ConfigError: nothing matches, or a body has no geom that collides.
    """
    spec = robot.spec
    if geoms is not None and bodies is None:
        named = [geom for geom in spec.geoms if geom.name]
        found = {named[i].name: [named[i]] for i in match(geoms, [g.name for g in named], "geom", robot.parts)}
    elif bodies is not None and geoms is None:
        there = list(spec.bodies)
        ids = match(bodies, [body.name for body in there], "body", robot.parts)
        in_pairs = {name for pair in spec.pairs for name in (pair.geomname1, pair.geomname2)}
        found = {
            there[i].name: [g for g in there[i].geoms if g.contype or g.conaffinity or (g.name and g.name in in_pairs)]
            for i in ids
        }
    else:
        raise ConfigError("give either 'bodies' or 'geoms'")
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
