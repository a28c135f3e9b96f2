"""A page in a real headless Chromium, over its debugging pipe: what it asks for and what it complains about."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip


class Visit(NamedTuple):
    """What a page did while it loaded.

    Attributes:
        requests: URLs that it asked for, but for data URIs.
        complaints: errors and warnings, console messages, dialogs.
        broken: pictures that could not be decoded.
        screenshot: PNG.
    """

    requests: list[str]
    complaints: list[str]
    broken: int
    screenshot: bytes


class _Pipe:
    """Chromium's debugging protocol: JSON messages that end in a zero byte, on file descriptors 3 and 4."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.buffer, self.number, self.events, self.session = b"", 0, [], {}

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            chunk = os.read(self.answers, 1 << 20)
            assert chunk, "Chromium has gone"
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(self.read())


def visit(page: Path, width: int = 1366, height: int = 900, dark: bool = False, script: str = "0") -> Visit:
    """Open a file; `script` runs once it is loaded."""
    ours, theirs = os.pipe(), os.pipe()  # (read, write): commands to Chromium, answers from it

    def wire() -> None:
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours[0], theirs[1])]  # out of the way of 3 and 4
        for number, end in enumerate(ends, 3):
            os.dup2(end, number)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=wire,
        )  # fmt: skip
        chrome = _Pipe(ours[1], theirs[0])
        try:
            return _visit(chrome, page, width, height, dark, script)
        finally:
            chrome.session = {}
            with suppress(AssertionError, OSError):
                chrome("Browser.close")  # its children too, which killing it would leave behind
            process.wait(60)
            for end in (*ours, *theirs):
                os.close(end)


def _visit(chrome: _Pipe, page: Path, width: int, height: int, dark: bool, script: str) -> Visit:
    target = chrome("Target.createTarget", url="about:blank")["targetId"]
    session = chrome("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    chrome.session = {"sessionId": session}
    for domain in ("Network", "Runtime", "Log", "Page"):
        chrome(f"{domain}.enable")
    chrome("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    chrome("Emulation.setEmulatedMedia", features=[scheme])
    chrome("Page.navigate", url=page.absolute().as_uri())
    chrome.wait_for("Page.loadEventFired")
    chrome("Runtime.evaluate", expression=script)
    broken = "[...document.images].filter(image => image.complete && !image.naturalWidth).length"
    broken = chrome("Runtime.evaluate", expression=broken)["result"]["value"]
    picture = base64.b64decode(chrome("Page.captureScreenshot", format="png")["data"])
    requests, complaints = [], []
    for event in chrome.events:
        method, params = event["method"], event["params"]
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            requests.append(params["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            complaints.append(json.dumps(params))
        elif method == "Page.javascriptDialogOpening":
            complaints.append(f"a dialog: {params['message']}")
    return Visit(requests, complaints, broken, picture)
