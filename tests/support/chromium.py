"""Pages in headless Chromium, driven and watched through its DevTools protocol over two pipes: no driver, no port."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
).split()
PATIENCE_S = 300.0  # what takes a second may take minutes on a machine that is busy
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# The browser reads commands from its descriptor 3 and writes answers to 4.
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""

_PLACE = """(() => {
  const read = [...document.querySelectorAll(%s)].filter(e => e.innerText && e.innerText.trim() === %s);
  const boxes = read.map(e => e.getBoundingClientRect()).filter(box => box.width > 0 && box.height > 0);
  boxes.sort((a, b) => a.width * a.height - b.width * b.height);
  return boxes.length && {x: boxes[0].x + boxes[0].width / 2, y: boxes[0].y + boxes[0].height / 2};
})()"""


def executable() -> str | None:
    """Where Chromium is, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Visit:
    """What happened when a page was opened.

    Attributes:
        errors: of its console: exceptions, `console.error`, and what the browser itself complains about.
        requests: URLs that it asked for, itself among them, up to their 80th character.
        value: what an expression came to in the page, after it had loaded.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    value: Any = None


def until(condition: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    """Wait until something outside of the page is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def visit(page: Path, profile: Path, expression: str = "null", timeout: float = PATIENCE_S) -> Visit:
    """Open a file, wait until it has loaded, and evaluate an expression in it.

    Args:
        page: the HTML file.
        profile: an empty folder for the browser's own files.
        expression: JavaScript.
        timeout: in seconds.
    """
    with Browser(profile, timeout=timeout) as browser:
        opened = browser.open(page.absolute().as_uri())
        value = opened.evaluate(expression)
        return Visit(opened.errors(), opened.requests(), value)


class Browser:
    """A headless Chromium, to be closed; with `webgl`, it draws three dimensions in software."""

    def __init__(
        self, profile: Path, *, webgl: bool = False, size: tuple[int, int] = (1200, 800), timeout: float = PATIENCE_S
    ):
        read_by_browser, write = os.pipe()
        read, written_by_browser = os.pipe()
        graphics = WEBGL if webgl else ["--disable-gpu"]
        window = f"--window-size={size[0]},{size[1]}"
        command = [executable() or "chromium", *FLAGS, *graphics, window, f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(read_by_browser), str(written_by_browser), *command],
            pass_fds=(read_by_browser, written_by_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_browser)
        os.close(written_by_browser)
        self._ends = (read, write)
        self._tools = _DevTools(read, write, timeout)

    def open(self, url: str) -> "Page":
        """A page in a tab of its own, once it has loaded."""
        target = self._tools.call(None, "Target.createTarget", url="about:blank")["targetId"]
        session = self._tools.call(None, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self._tools, session, target)
        for domain in ("Log", "Network", "Page", "Runtime"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=url)
        self._tools.wait_for(session, "Page.loadEventFired")
        page.evaluate("null")  # what was asked for until now has then been told
        page.call("Network.disable")  # else each frame of a WebSocket is
        return page

    def close(self) -> None:
        """End it at once, its connections included."""
        self.process.kill()
        self.process.wait()
        for end in self._ends:
            os.close(end)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Page:
    """A page that is open. Places on it are in pixels from its upper left corner."""

    tools: "_DevTools"
    session: str
    target: str

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol."""
        return self.tools.call(self.session, method, **params)

    def evaluate(self, expression: str) -> Any:
        """What JavaScript comes to, promises awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_until(self, expression: str, timeout: float = PATIENCE_S) -> Any:
        """Evaluate again and again until it is true."""
        deadline = time.monotonic() + timeout
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.1)
        return value

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 10) -> None:
        """Press the left button, move the mouse, and let it go."""
        (x0, y0), (x1, y1) = start, end
        self.mouse("mouseMoved", x0, y0, buttons=0)
        self.mouse("mousePressed", x0, y0)
        for i in range(1, steps + 1):
            self.mouse("mouseMoved", x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps)
            time.sleep(0.03)
        self.mouse("mouseReleased", x1, y1, buttons=0)

    def click(self, at: tuple[float, float]) -> None:
        """Press the left button and let it go."""
        self.mouse("mouseMoved", *at, buttons=0)
        self.mouse("mousePressed", *at)
        self.mouse("mouseReleased", *at, buttons=0)

    def place(self, text: str, selector: str = "*") -> tuple[float, float]:
        """The middle of the smallest visible element that reads so, once there is one."""
        found = self.wait_until(_PLACE % (json.dumps(selector), json.dumps(text)))
        return found["x"], found["y"]

    def press(self, key: str, code: str, key_code: int, shift: bool = False, hold_s: float = 0.0) -> None:
        """Press a key and let it go: its `key`, `code` and `keyCode`, as events in JavaScript name them."""
        what = {"key": key, "code": code, "windowsVirtualKeyCode": key_code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **what)
        time.sleep(hold_s)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def screenshot(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """Close the tab."""
        self.tools.call(None, "Target.closeTarget", targetId=self.target)

    def errors(self) -> list[str]:
        """What its console shows: exceptions, `console.error`, and what the browser itself complains about."""
        self.evaluate("null")  # what has happened until now has then arrived
        found = []
        for method, params in self._events():
            if method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
                found.append(str(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')[:80]}")
        return found

    def requests(self) -> list[str]:
        """URLs that it asked for, itself among them, and, once it had loaded, resources; up to their 80th character."""
        since = self.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
        sent = [params for method, params in self._events() if method == "Network.requestWillBeSent"]
        return [url[:80] for url in dict.fromkeys([params["request"]["url"] for params in sent] + since)]

    def _events(self) -> list[tuple[str, dict[str, Any]]]:
        return [(e["method"], e["params"]) for e in self.tools.events if e.get("sessionId") == self.session]

    def mouse(self, kind: str, x: float, y: float, buttons: int = 1) -> None:
        """A mouse event: `mouseMoved`, `mousePressed` or `mouseReleased`, with the left button held, or not."""
        button = "none" if kind == "mouseMoved" and not buttons else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)


class _DevTools:
    """Commands and events of the protocol: JSON objects, each ended by a zero byte."""

    def __init__(self, read: int, write: int, timeout: float):
        self.events: list[dict[str, Any]] = []
        self._read, self._write, self._timeout = read, write, timeout
        self._numbers = itertools.count(1)
        self._rest = b""
        os.set_blocking(read, False)

    def call(self, session: str | None, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + self._timeout
        while (message := self._next(deadline)).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    def wait_for(self, session: str, method: str) -> None:
        deadline = time.monotonic() + self._timeout
        while all((e["method"], e.get("sessionId")) != (method, session) for e in self.events):
            self._next(deadline)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert time.monotonic() < deadline, "Chromium does not answer"
            try:
                data = os.read(self._read, 1 << 20)
                assert data, "Chromium is gone"
                self._rest += data
            except BlockingIOError:
                time.sleep(0.01)
        data, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(data)
        if "method" in message:
            self.events.append(message)
        return message
