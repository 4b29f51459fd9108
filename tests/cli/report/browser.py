"""A headless Chromium, driven over the pipe of its DevTools protocol with what the standard library has."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

PATIENCE = 60.0
"""Seconds to wait for an answer."""


def find_browser() -> str | None:
    """Return the program, if there is one that starts: some are there only to say how to install another."""
    return next(filter(_starts, filter(None, map(shutil.which, NAMES))), None)


def _starts(program: str) -> bool:
    try:
        return (
            subprocess.run([program, "--version"], capture_output=True, check=False, timeout=PATIENCE).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


class Page:
    """A tab: what it is told, what it answers, and what happened in it."""

    def __init__(self, process: "subprocess.Popen[bytes]", commands: int, answers: int) -> None:
        self._process, self._commands, self._answers = process, commands, answers
        self._rest = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(PATIENCE)
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _read(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser is gone"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Open a file and wait until its charts are drawn, or have failed."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("['drawn', 'failed'].includes(document.documentElement?.dataset.charts)")

    def run(self, expression: str) -> Any:
        """Return what an expression of JavaScript is worth; of a promise, what comes of it."""
        outcome = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in outcome, outcome["exceptionDetails"]
        return outcome["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < end, f"never became true: {condition}"
            time.sleep(0.02)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Give the window a size; a phone has fingers."""
        scale = 2 if phone else 1
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, **features: str) -> None:
        """Set what the system prefers, such as `color_scheme="dark"`."""
        listed = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def move(self, x: float, y: float) -> None:
        """Move the mouse somewhere."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, x0: float, x1: float, y: float) -> None:
        """Drag the mouse from left to right."""
        mouse = {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x0, y=y, **mouse)
        for part in range(1, 6):
            self.call(
                "Input.dispatchMouseEvent", type="mouseMoved", x=x0 + (x1 - x0) * part / 5, y=y, buttons=1, **mouse
            )
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x1, y=y, **mouse)

    def key(self, key: str) -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        text = {"text": "\r"} if key == "Enter" else {"text": key} if key == " " else {}
        common = {"key": key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, path: Path) -> None:
        """Save the whole page as a PNG file."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the console, and exceptions that nobody caught."""
        found: list[str] = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"]))
            if event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in {
                "error",
                "warning",
                "assert",
            }:
                found.append(json.dumps(parameters["args"]))
            if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
                found.append(json.dumps(parameters["entry"]))
        return found

    def requests(self) -> list[str]:
        """Return the addresses that were asked for."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]


@contextmanager
def browser(program: str) -> Iterator[Page]:
    """Start a browser with nothing in it, and end it."""
    (commands_out, commands_in), (answers_out, answers_in) = _pipe(), _pipe()
    # The browser reads from 3 and writes to 4; a shell puts the pipes there.
    line = f'exec "$0" "$@" 3<&{commands_out} 4>&{answers_in}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            ["/bin/bash", "-c", line, program, *SWITCHES, f"--user-data-dir={folder}"],
            pass_fds=(commands_out, answers_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        try:
            page = Page(process, commands_in, answers_out)
            yield page
            page._session = None
            page.call("Browser.close")
        finally:
            os.close(commands_in)
            os.close(answers_out)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _pipe() -> tuple[int, int]:
    """Return the ends of a pipe, neither of which is 3 or 4."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
