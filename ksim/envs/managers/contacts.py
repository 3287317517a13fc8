"""How long contact sensors have been as they are."""

from collections.abc import Mapping

from ksim.envs.carry import Memory
from ksim.envs.contacts import ContactSensor, ContactTimes
from ksim.envs.context import Context


class ContactManager:
    """Contact sensors of one env: the times of those that keep them."""

    def __init__(self, sensors: Mapping[str, ContactSensor]):
        self.timed = {name: sensor for name, sensor in sensors.items() if sensor.track_time}

    def init_memory(self) -> Memory:
        """The times at the start of an episode."""
        return {sensor.path: ContactTimes.zero(len(sensor.elements)) for sensor in self.timed.values()}

    def advance(self, ctx: Context) -> Memory:
        """The times one env step later; once in a step, before anything reads them."""
        return {
            sensor.path: ctx.memory[sensor.path].advance(ctx.contact(name).found) for name, sensor in self.timed.items()
        }
