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
# What was clicked keeps the keyboard: a tab or a slider takes arrows, a box or a list takes every key. That is for
# people who go from element to element by Tab; those with a mouse mean the robot, unless they type.
_REDIRECT = """
let hasMouse = false;
const isClosed = (element) => element.matches("[type=checkbox], [aria-expanded=false]");
const isTyped = (element) => element.matches("input, textarea") && !isClosed(element);
const everywhere = { capture: true };
addEventListener("pointerdown", ({ target }) => {
  hasMouse = true;
  if (target.matches("canvas")) document.activeElement?.blur();
}, everywhere);
addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (key === "Tab") hasMouse = false;
  if (!hasMouse || target === document.body || !event.isTrusted) return;
  if (isTyped(target)) {
    if (key === "Enter") setTimeout(() => target.blur());
    return;
  }
  event.stopImmediatePropagation();
  target.blur();
  if (!document.body.dispatchEvent(new KeyboardEvent("keydown", event))) event.preventDefault();
}, everywhere);
"""


def keep_keys(server: viser.ViserServer, keys: Iterable[str]) -> None:
    """Let keys do what they are bound to, whatever was clicked before, and not move the camera besides.

    Args:
        server: the page's.
        keys: as viser names them.
    """
    script = _KEEP % json.dumps(sorted({_code(key) for key in keys})) + _REDIRECT
    server.gui._websock_interface.queue_message(_messages.RunJavascriptMessage(script))


def _code(key: str) -> str:
    """As JavaScript's events name it; of letters and arrows, which are all that cameras move by."""
    return f"Arrow{key.removeprefix('arrow').capitalize()}" if key.startswith("arrow") else f"Key{key}"
