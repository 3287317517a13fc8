"""Keys that belong to the robot: what else the page would do with them is left out."""

import json
from collections.abc import Iterable

import viser
from viser import _messages

# viser flies its camera with some of them: it listens on the document, and for hotkeys on the element below.
_KEEP = """
const codes = new Set(%s);
document.documentElement.addEventListener("keydown", (event) => codes.has(event.code) && event.stopPropagation());
"""
# What was clicked keeps the keyboard: a tab or a slider takes arrows, a box or a list takes every key. A person who
# goes from element to element with the keyboard needs that, one with a mouse does not.
_GIVE_BACK = """
const isTyped = (element) => element?.matches("input:not([type=checkbox]), textarea");
const letGo = () => setTimeout(() => document.activeElement?.blur());
addEventListener("pointerup", () => isTyped(document.activeElement) || letGo(), { capture: true });
addEventListener("click", ({ target, detail }) => {
  const isChosen = detail > 0 && target.closest("[role=option], canvas");
  if (isChosen || (detail > 0 && !isTyped(document.activeElement))) letGo();
}, { capture: true });
addEventListener("keydown", ({ key, target }) => key === "Enter" && isTyped(target) && letGo(), { capture: true });
"""


def keep_keys(server: viser.ViserServer, keys: Iterable[str]) -> None:
    """Let keys do what they are bound to, whatever was clicked before, and not move the camera besides.

    Args:
        server: the page's.
        keys: as viser names them.
    """
    script = _KEEP % json.dumps(sorted({_code(key) for key in keys})) + _GIVE_BACK
    server.gui._websock_interface.queue_message(_messages.RunJavascriptMessage(script))


def _code(key: str) -> str:
    """As JavaScript's events name it; of letters and arrows, which are all that cameras move by."""
    return f"Arrow{key.removeprefix('arrow').capitalize()}" if key.startswith("arrow") else f"Key{key}"
