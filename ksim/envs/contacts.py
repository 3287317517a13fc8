"""Contacts as terms see them: what touches, how hard, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ksim.errors import ConfigError

SLOTS = 4  # contacts of one geom that are told apart, the deepest first


@dataclass(frozen=True)
class ContactSensor:
    """A contact sensor of a task.

    Attributes:
        name: its key in the task.
        elements: names of the bodies or geoms that it watches.
        sensors: for each element, MuJoCo's sensors of its geoms.
        track_time: whether times are kept.
    """

    name: str
    elements: tuple[str, ...]
    sensors: tuple[tuple[str, ...], ...]
    track_time: bool

    @property
    def path(self) -> str:
        """Its place in the config."""
        return f"task.scene.sensors.{self.name}"


class ContactTimes(eqx.Module):
    """For how long each of n elements has been as it is, in env steps.

    Attributes:
        contact: in contact; 0 in the air.
        air: in the air; 0 in contact.
        last_contact, last_air: length of the last contact and of the last time in the air; 0 before one has ended.
    """

    contact: Int[Array, " n"]
    air: Int[Array, " n"]
    last_contact: Int[Array, " n"]
    last_air: Int[Array, " n"]

    @classmethod
    def zero(cls, count: int) -> ContactTimes:
        """At the start of an episode."""
        zero = jnp.zeros(count, jnp.int32)
        return cls(zero, zero, zero, zero)

    def advance(self, touches: Bool[Array, " n"]) -> ContactTimes:
        """One env step later."""
        lands, leaves = touches & (self.air > 0), ~touches & (self.contact > 0)
        return ContactTimes(
            contact=jnp.where(touches, self.contact + 1, 0),
            air=jnp.where(touches, 0, self.air + 1),
            last_contact=jnp.where(leaves, self.contact, self.last_contact),
            last_air=jnp.where(lands, self.air, self.last_air),
        )


class Contacts:
    """What one contact sensor tells of one env; one element for each body or geom of it.

    Args:
        sensor: the sensor.
        slice_of: where the values of a sensor of the model lie in `sensordata`, by its name.
        read: a field of mjData by its name; called only for what is asked for.
        times: what the sensor remembers; None where it keeps no times.
        step_dt: seconds of an env step.
    """

    def __init__(
        self,
        sensor: ContactSensor,
        slice_of: Callable[[str], slice],
        read: Callable[[str], Array],
        times: ContactTimes | None,
        step_dt: float,
    ):
        self._sensor = sensor
        self._slice_of = slice_of
        self._read = read
        self._kept = times
        self._step_dt = step_dt

    @property
    def found(self) -> Bool[Array, " n"]:
        """Whether each element touches something, in the last substep."""
        return self._of_each(lambda slots: slots[0, 0] > 0, jnp.any, "sensordata")

    @property
    def force(self) -> Float[Array, " n"]:
        """Sum of each element's normal forces in the last substep, N."""
        return self._of_each(lambda slots: jnp.abs(slots[:, 1]).sum(), jnp.sum, "sensordata")

    @property
    def peak_force(self) -> Float[Array, " n"]:
        """Largest normal force of one contact of each element, over the substeps, N; 0 after a reset.

        A short blow shows here that `force` misses.
        """
        return self._of_each(lambda slots: jnp.abs(slots[:, 1]).max(), jnp.max, "sensordata_max")

    @property
    def contact_time(self) -> Float[Array, " n"]:
        """For how long each element has been in contact, s; 0 in the air."""
        return self._times.contact * self._step_dt

    @property
    def air_time(self) -> Float[Array, " n"]:
        """For how long each element has been in the air, s; 0 in contact."""
        return self._times.air * self._step_dt

    @property
    def last_contact_time(self) -> Float[Array, " n"]:
        """How long each element's last contact was, s; 0 before one has ended."""
        return self._times.last_contact * self._step_dt

    @property
    def last_air_time(self) -> Float[Array, " n"]:
        """How long each element was in the air when it was last, s; 0 before it has landed."""
        return self._times.last_air * self._step_dt

    @property
    def first_contact(self) -> Bool[Array, " n"]:
        """Whether each element has landed in this env step; not where an episode starts in contact."""
        return (self._times.contact == 1) & (self._times.last_air > 0)

    @property
    def first_air(self) -> Bool[Array, " n"]:
        """Whether each element has left the ground in this env step; not where an episode starts in the air."""
        return (self._times.air == 1) & (self._times.last_contact > 0)

    @property
    def _times(self) -> ContactTimes:
        sensor = self._sensor
        if not sensor.track_time:
            raise ConfigError(f"contact sensor {sensor.name!r} keeps no times; set {sensor.path}.track_time: true")
        assert self._kept is not None  # they start with each episode
        return self._kept

    def _of_each(self, of_geom: Callable[[Array], Array], over_geoms: Callable[[Array], Array], field: str) -> Array:
        """A number for each geom from its (SLOTS, 4) found and force, and from those of an element one for it."""
        sensordata = self._read(field)

        def one(name: str) -> Array:
            return of_geom(sensordata[self._slice_of(name)].reshape(SLOTS, 4))

        return jnp.stack([over_geoms(jnp.stack([one(name) for name in names])) for names in self._sensor.sensors])
