"""The engine's process from outside: what it makes of messages that nobody should send."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

import sensorium
from sensorium.engine.ipc import messages
from sensorium.engine.ipc.channel import Channel
from sensorium.engine.ipc.service import STEPS_TO_RELEASE, Leases

COMMAND = [sys.executable, "-P", "-m", "sensorium.engine.ipc.worker"]


class Worker:
    """A process that was started as ``EngineProcess`` does, spoken to by hand."""

    def __init__(self, popen: type[subprocess.Popen[str]]) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = popen(
                [*COMMAND, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        self.channel = Channel(self.socket)

    def hello(self, package: str | None = None) -> None:
        path = package or sensorium.__path__[0]
        self.channel.send(json.dumps({"path": sys.path, "package": path}).encode())

    def end(self) -> tuple[int, str]:
        _, stderr = self.process.communicate(timeout=100)
        return self.process.returncode, stderr


@pytest.fixture
def worker(popen: type[subprocess.Popen[str]]) -> Iterator[Worker]:
    started = Worker(popen)
    yield started
    started.process.kill()
    started.process.communicate()
    started.channel.close()


def test_bytes_that_are_no_frame_end_it(worker: Worker) -> None:
    worker.socket.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 64)
    status, stderr = worker.end()
    assert status == 2
    assert "the engine's process ends: a frame is longer than any may be" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("payload", [b"garbage", messages.encode("add", 1), b""])
def test_another_message_than_setup_ends_it(worker: Worker, payload: bytes) -> None:
    worker.hello()
    worker.channel.send(payload)
    status, stderr = worker.end()
    assert status == 2
    assert "Traceback (most recent call last)" not in stderr


def test_another_package_than_the_parents_ends_it(worker: Worker) -> None:
    worker.hello(package="/somewhere/sensorium")
    status, stderr = worker.end()
    assert status == 2
    assert "its parent in /somewhere/sensorium" in stderr


def test_a_parent_that_says_nothing_and_goes(worker: Worker) -> None:
    worker.channel.close()
    assert worker.end() == (0, "")


def test_a_process_that_was_not_started_by_its_parent_ends() -> None:
    done = subprocess.run([*COMMAND, "0", "1"], timeout=100, check=False)
    assert done.returncode == 0


def test_segments_are_free_some_steps_after_their_request() -> None:
    leases = Leases()
    leases.hold("a", [1, 2])
    leases.hold("b", [2])
    leases.hold("text", [])
    leases.end(["a", "text", "unknown"])
    for _ in range(STEPS_TO_RELEASE - 1):
        assert leases.tick() == []
    leases.end(["b"])
    assert leases.tick() == [1, 2]
    assert leases.idle() == [2], "nothing runs any more"
    assert leases.idle() == []
