"""``Outbox``: queues frames for the engine's process, so that no sender waits for the socket.

Frames that the socket doesn't take at once stay here, in order, until the thread that polls the
socket flushes it. Before there is a process, everything stays here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable

from sensorium.engine.ipc.channel import header, rights


class Outbox:
    """The way to one process; used from any thread.

    Args:
        on_rest: called, from any thread, when something is left to flush.
    """

    def __init__(self, on_rest: Callable[[], None]) -> None:
        self._on_rest = on_rest
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._waiting: deque[tuple[memoryview, int | None]] = deque()
        self._closed = False

    def attach(self, sock: socket.socket) -> None:
        """A process is connected: sends the frames that waited for it."""
        with self._lock:
            self._socket = sock
            self._flush()

    def send(self, payload: bytes, descriptor: int | None = None) -> None:
        """Sends a frame, now or when the socket takes it.

        Args:
            descriptor: passed on with it and closed here.
        """
        passed = () if descriptor is None else (descriptor,)
        data = memoryview(header(payload, passed) + payload)
        with self._lock:
            if self._closed:
                if descriptor is not None:
                    os.close(descriptor)
                return
            self._waiting.append((data, descriptor))
            rest = self._flush() if len(self._waiting) == 1 else False
        if rest:
            self._on_rest()

    def flush(self) -> bool:
        """Sends what the socket takes; True if something is left that it may take later."""
        with self._lock:
            return self._flush()

    def close(self) -> None:
        """Drops what waits."""
        with self._lock:
            self._closed = True
            self._socket = None
            for _, descriptor in self._waiting:
                if descriptor is not None:
                    os.close(descriptor)
            self._waiting.clear()

    def _flush(self) -> bool:
        while self._waiting and self._socket is not None:
            data, descriptor = self._waiting[0]
            passed = () if descriptor is None else (descriptor,)
            try:
                sent = self._socket.sendmsg([data], rights(passed), socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False  # the other end is gone: who polls the socket will hear of it
            if descriptor is not None:
                os.close(descriptor)
            if sent < len(data):
                self._waiting[0] = data[sent:], None
            else:
                self._waiting.popleft()
        return False
