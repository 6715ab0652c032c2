"""A headless Chromium that shows a file, over its DevTools protocol and without other packages."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIMIT = 120.0  # seconds for one answer: the machine may be busy


class Page:
    """One page of a browser of its own, closed at the end of a ``with`` block.

    Args:
        path: The file to show.
        home: An empty folder for what the browser writes.
        width: Of the window in pixels.
        height: Of the window in pixels.
        dark: Whether the user prefers dark colours.

    Attributes:
        problems: What the console said, exceptions, and all that was fetched but the file.
    """

    def __init__(
        self, path: Path, home: Path, *, width: int = 1200, height: int = 900, dark: bool = False
    ) -> None:
        assert PROGRAM is not None
        self.problems: list[str] = []
        self.number = 0
        self.session: str | None = None
        self.rest = b""
        to_browser, self.out = os.pipe()
        self.answers, from_browser = os.pipe()
        flags = (
            "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --remote-debugging-pipe "
            "--disable-dev-shm-usage --no-first-run --disable-extensions"
        )
        # Chromium talks through the files 3 and 4.
        command = f'exec "$0" {flags} --user-data-dir="$1" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, PROGRAM, str(home)],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        self.prefer(dark=dark)
        self.url = path.resolve().as_uri()
        self.reload()

    def reload(self) -> None:
        """Open the file anew, and wait until it is there."""
        self.send("Page.navigate", url=self.url)
        while self.run("document.readyState") != "complete":
            time.sleep(0.1)

    def __enter__(self) -> "Page":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.close(self.out)  # the browser ends with its last listener
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answers)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.note(answer.get("method", ""), answer.get("params", {}))

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], LIMIT)
            assert ready, f"no answer from {PROGRAM} in {LIMIT:g} s"
            new = os.read(self.answers, 2**20)
            assert new, f"{PROGRAM} ended"
            self.rest += new
        text, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def note(self, event: str, params: dict[str, Any]) -> None:
        """Remember what a page without faults does not do."""
        if event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(params)[:500])
        elif event == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {params['message']}")
        elif event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith("data:") and url != self.url:
                self.problems.append(f"fetched {url}")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, as ``Tab``, ``Enter`` or ``ArrowRight``."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        keys = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **keys, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **keys)

    def hover(self, selector: str) -> tuple[float, float]:
        """Move the mouse over the middle of an element; returns where that is in the window."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def drag(self, selector: str, dx: int = 0) -> None:
        """Press the mouse on the middle of an element and release it that far to the right.

        ``dx=0`` is a click.
        """
        x, y = self.hover(selector)
        for kind, place in (("Pressed", x), ("Moved", x + dx), ("Released", x + dx)):
            button: dict[str, Any] = {"button": "left", "buttons": 1, "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=place, y=y, **button)

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, *, dark: bool) -> None:
        value = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The whole page as a PNG, or what the window shows of it."""
        done = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        done = self.send("Page.printToPDF", printBackground=False)
        return base64.b64decode(done["data"])
