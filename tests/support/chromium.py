"""A page in headless Chromium, watched through its DevTools protocol over two pipes: no driver, no port."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
).split()
# The browser reads commands from its descriptor 3 and writes answers to 4.
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


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


def visit(page: Path, profile: Path, expression: str = "null", timeout: float = 120.0) -> Visit:
    """Open a file, wait until it has loaded, and evaluate an expression in it.

    Args:
        page: the HTML file.
        profile: an empty folder for the browser's own files.
        expression: JavaScript.
        timeout: in seconds.
    """
    read_by_browser, write = os.pipe()
    read, written_by_browser = os.pipe()
    command = [executable() or "chromium", *FLAGS, f"--user-data-dir={profile}"]
    child = subprocess.Popen(
        [sys.executable, "-c", _START, str(read_by_browser), str(written_by_browser), *command],
        pass_fds=(read_by_browser, written_by_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_by_browser)
    os.close(written_by_browser)
    try:
        return _visit(_DevTools(read, write, time.monotonic() + timeout), page, expression)
    finally:
        child.kill()
        child.wait()
        os.close(read)
        os.close(write)


def _visit(browser: "_DevTools", page: Path, expression: str) -> Visit:
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Log", "Network", "Page", "Runtime"):
        browser.call(f"{domain}.enable")
    browser.call("Page.navigate", url=page.absolute().as_uri())
    browser.wait_for("Page.loadEventFired")
    value = browser.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
    result = Visit(value=value["result"].get("value"))
    for event in browser.events:
        found = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            result.errors.append(str(found["exceptionDetails"].get("exception", found["exceptionDetails"])))
        elif event["method"] == "Runtime.consoleAPICalled" and found["type"] in ("error", "assert"):
            result.errors.append(str(found["args"]))
        elif event["method"] == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            result.errors.append(f"{found['entry']['text']} {found['entry'].get('url', '')[:80]}")
        elif event["method"] == "Network.requestWillBeSent":
            result.requests.append(found["request"]["url"][:80])
    return result


class _DevTools:
    """Commands and events of the protocol: JSON objects, each ended by a zero byte."""

    def __init__(self, read: int, write: int, deadline: float):
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        self._read, self._write, self._deadline = read, write, deadline
        self._numbers = itertools.count(1)
        self._rest = b""
        os.set_blocking(read, False)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params}
        if self.session is not None:
            command["sessionId"] = self.session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    def wait_for(self, method: str) -> None:
        while all(event["method"] != method for event in self.events):
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert time.monotonic() < self._deadline, "Chromium does not answer"
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
