"""A page in a headless Chromium, driven through a pipe by its own protocol: no driver, no network."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(NAMES)}")

OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-extensions --remote-debugging-pipe"
)
# Chromium reads commands from file descriptor 3 and writes answers to 4.
LAUNCH = """
import os, sys
for number, wanted in enumerate((3, 4), 1):
    os.dup2(int(sys.argv[number]), wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """The one page of a browser; `events` is what the browser reported, in order."""

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers = commands, answers
        self._left, self._session, self._count = b"", None, 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path, width: int, scheme: str) -> None:
        """Load a file in a window so wide, "light" or "dark", and wait for all that is in it."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write all of the page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._answers, 2**16)
            assert more, "the browser ended"
            self._left += more
        line, self._left = self._left.split(b"\0", 1)
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """Start a browser that keeps its files in a folder, and end it."""
    assert BROWSER is not None
    (read, commands), (answers, write) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", LAUNCH, str(read), str(write), BROWSER, *OPTIONS.split()]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={folder / 'profile'}"],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    os.close(read)
    os.close(write)
    try:
        yield Page(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        process.terminate()
        process.wait(30)
