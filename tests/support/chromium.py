"""Headless Chromium for the tests of the page, over the DevTools protocol on a pair of pipes; standard library only."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip

LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the pipes where the protocol wants them: descriptor 3 to read, 4 to write."""


def find() -> str | None:
    """The browser: $CHROMIUM, or the first of the usual names."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page. `send` calls a method of the protocol; what the page logged or asked of the network is kept."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        to_read, self.write_end = os.pipe()
        self.read_end, to_write = os.pipe()
        command = [sys.executable, "-c", LAUNCH, str(to_read), str(to_write)]
        command += [program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(to_read, to_write), **nowhere)
        os.close(to_read)
        os.close(to_write)
        self.buffer, self.last, self.session = b"", 0, ""
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.write_end, self.read_end):
            os.close(end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.last += 1
        message: dict[str, Any] = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, seconds: float = 60.0) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            if not select.select([self.read_end], [], [], seconds)[0]:
                raise TimeoutError(f"Chromium says nothing for {seconds} s")
            part = os.read(self.read_end, 1 << 16)
            if not part:
                raise RuntimeError("Chromium has ended")
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.problems.append(str([argument.get("value") for argument in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(event["entry"]["text"])

    # ---- a page ----

    def open(self, path: Path, width: int = 1200, height: int = 1000, touch: bool = False, **media: str) -> None:
        """Loads a file in a window of this size; media such as prefers_color_scheme="dark"."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && !!globalThis.snn")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON carries it."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {condition}")
            time.sleep(0.02)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """x, y, width, height of an element, scrolled into view."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{find}.scrollIntoView({{block: 'center'}})")
        rectangle = self.evaluate(f"{find}.getBoundingClientRect().toJSON()")
        return rectangle["x"], rectangle["y"], rectangle["width"], rectangle["height"]

    def click(self, selector: str) -> None:
        x, y, width, height = self.box(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, {"x": x + width / 2, "y": y + height / 2})

    def key(self, key: str, code: str, number: int, text: str = "") -> None:
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def draw(
        self, selector: str, strokes: list[list[tuple[float, float]]], touch: bool = False, release: bool = True
    ) -> None:
        """Draw lines through points given as shares of the element's width and height."""
        x, y, width, height = self.box(selector)
        for stroke in strokes:
            points = [{"x": x + a * width, "y": y + b * height} for a, b in stroke]
            for i, at in enumerate(points):
                if touch:
                    kind = "touchStart" if i == 0 else "touchMove"
                    self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[at])
                else:
                    self._mouse("mousePressed" if i == 0 else "mouseMoved", at)
            if touch:
                self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            elif release:
                self._mouse("mouseReleased", points[-1])

    def _mouse(self, kind: str, at: dict[str, float]) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, **at, button="left", buttons=1, clickCount=1)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
