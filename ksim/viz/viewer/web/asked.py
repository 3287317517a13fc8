"""What people ask of a page, on its way to the thread that simulates."""

import queue
from collections.abc import Callable, Coroutine
from typing import Any

from ksim.errors import KsimError


class Asked:
    """Actions in the order in which they were asked for, from all browsers.

    The page's own thread must not wait for a simulation, which may be in the middle of a step, or compile.
    """

    def __init__(self) -> None:
        self._actions: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def put(self, action: Callable[[], object]) -> None:
        """Do it soon; returns at once."""
        self._actions.put(action)

    def by(self, action: Callable[[Any], object]) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """What to attach to an element of the page: people's clicks and changes, not those that the viewer makes."""

        async def callback(event: Any) -> None:
            if event.client_id is not None:
                self.put(lambda: action(event))

        return callback

    def do(self, say: Callable[[str], object]) -> bool:
        """Do all that was asked for; whether there was anything.

        Args:
            say: is told what could not be done.
        """
        is_any = False
        while not self._actions.empty():
            is_any = True
            try:
                self._actions.get()()
            except KsimError as error:
                say(str(error))
        return is_any


def show_value(element: Any, value: Any) -> None:
    """Change what an input of the page shows; `Asked.by` does not take it for somebody's wish."""
    element.value = value
