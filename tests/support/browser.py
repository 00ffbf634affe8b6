"""A headless Chromium, driven by its DevTools protocol over two pipes; no package is needed."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
PROGRAM = PROGRAM or shutil.which("google-chrome")
_PATIENCE_S = 100.0
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
_FLAGS += ["--no-first-run", "--disable-background-networking", "--disable-extensions"]
_FLAGS += ["--remote-debugging-pipe", "--window-size=1000,800"]
# Microphones and cameras are Chromium's own stand-ins, which nobody is asked about.
_FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


class Page:
    """One page.

    Attributes:
        events: the protocol's events so far, (method, parameters).
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []

    def attach(self) -> None:
        """Takes a new, empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append((answer.get("method", ""), answer.get("params", {})))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE_S)
            assert ready, "the browser says nothing"
            data = os.read(self._answers, 2**20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, (script, found["exceptionDetails"])
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Waits for an expression to be true."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self.run(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)

    def press(self, key: str, code: int, **more: Any) -> None:
        """A key, as a keyboard sends it."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(more if kind == "keyDown" else {}),
            )

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def choose_files(self, selector: str, *files: Path) -> None:
        """Files into a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def screenshot(self) -> bytes:
        """What the page looks like, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requested(self) -> list[str]:
        """The addresses that the page has asked for."""
        self.call("Runtime.evaluate", expression="0")
        return [
            parameters["request"]["url"]
            for method, parameters in self.events
            if method == "Network.requestWillBeSent"
        ]


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page of a fresh browser, whose profile lies in ``folder``."""
    assert PROGRAM is not None
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    # The protocol's pipes are file descriptors 3 and 4; the shell puts those from 10 on there.
    high_out = fcntl.fcntl(commands_out, fcntl.F_DUPFD, 10)
    high_in = fcntl.fcntl(answers_in, fcntl.F_DUPFD, 10)
    os.close(commands_out)
    os.close(answers_in)
    script = f'exec "$0" "$@" 3<&{high_out} 4>&{high_in} {high_out}<&- {high_in}>&-'
    process = subprocess.Popen(
        ["bash", "-c", script, PROGRAM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
        pass_fds=(high_out, high_in),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(high_out)
    os.close(high_in)
    try:
        page = Page(commands_in, answers_out)
        page.attach()
        yield page
    finally:
        os.close(commands_in)  # the browser ends with its pipe
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(answers_out)
