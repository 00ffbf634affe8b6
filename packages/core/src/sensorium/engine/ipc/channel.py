"""``Channel``: whole frames, some with a file descriptor, over one inherited socket.

    frame   │ length, 4 bytes │ descriptors, 1 byte │ payload, length bytes │

The socket is one end of an unnamed pair. Only the process that started this one, or was started by
it, holds the other end, and there is no address that another process could connect to. The channel
doesn't know what payloads mean.

It needs the standard library alone, so that the engine's process can listen before it has imported
anything else.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_HEADER = struct.Struct("<IB")
#: Longest payload. Features don't cross in frames, so a longer frame is an error.
MAX_FRAME_BYTES = 2**28
MAX_FRAME_DESCRIPTORS = 1
_READ_BYTES = 2**16
_ANCILLARY_BYTES = socket.CMSG_SPACE(16 * array.array("i").itemsize)


class ChannelError(Exception):
    """The bytes that arrived are not a frame."""


class ChannelClosedError(ChannelError):
    """The other end is closed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; its receiver closes the descriptors."""

    payload: bytes
    descriptors: tuple[int, ...] = ()


def header(payload: bytes, descriptors: Sequence[int] = ()) -> bytes:
    """What stands before a payload."""
    assert len(payload) <= MAX_FRAME_BYTES, "a frame that nobody would accept"
    assert len(descriptors) <= MAX_FRAME_DESCRIPTORS
    return _HEADER.pack(len(payload), len(descriptors))


class Channel:
    """Both directions of one end. Any thread may send; one at a time may receive."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._bytes = bytearray()
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        """For ``poll``."""
        return self._socket.fileno()

    def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """Sends one frame, and waits until the socket has taken it.

        Raises:
            ChannelClosedError: the other end is gone.
        """
        parts = [header(payload, descriptors), payload]
        try:
            with self._sending:
                sent = self._socket.sendmsg(parts, rights(descriptors))
                if sent < len(parts[0]) + len(payload):
                    self._socket.sendall(memoryview(b"".join(parts))[sent:])
        except OSError as error:
            raise ChannelClosedError("the other end is closed") from error

    def receive(self, *, wait: bool) -> list[Frame] | None:
        """The frames that have come since; None once the other end is closed.

        Args:
            wait: until something comes. It may be less than a frame; then the list is empty.

        Raises:
            ChannelError: what came is no frame.
        """
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            data, ancillary, told, _ = self._socket.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, flags)
        except (BlockingIOError, InterruptedError):
            return []
        except ConnectionResetError:
            return None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if told & socket.MSG_CTRUNC:
            raise ChannelError("more descriptors came than frames may have")
        if not data:
            return None
        self._bytes += data
        return self._whole_frames()

    def _whole_frames(self) -> list[Frame]:
        frames = []
        start, have = 0, len(self._bytes)
        while have - start >= _HEADER.size:
            length, num_descriptors = _HEADER.unpack_from(self._bytes, start)
            if length > MAX_FRAME_BYTES or num_descriptors > MAX_FRAME_DESCRIPTORS:
                raise ChannelError("a frame is longer than any may be")
            stop = start + _HEADER.size + length
            if stop > have:
                break
            # A descriptor arrives with its frame's first byte at the latest.
            if num_descriptors > len(self._descriptors):
                raise ChannelError("a frame lacks its descriptor")
            descriptors = tuple(self._descriptors.popleft() for _ in range(num_descriptors))
            frames.append(Frame(bytes(self._bytes[start + _HEADER.size : stop]), descriptors))
            start = stop
        del self._bytes[:start]
        return frames

    def close(self) -> None:
        """Closes the socket, and the descriptors that no frame has claimed."""
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, Any]]:
    """The ancillary data that pass descriptors on."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
