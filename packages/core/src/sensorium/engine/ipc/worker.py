"""The engine's process: ``python -P -m sensorium.engine.ipc.worker DESCRIPTOR PARENT``.

Started only by ``ProcessClient``. It first reads the parent's ``sys.path`` from the socket, then
imports the rest of Sensorium from there and runs ``service``.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import threading
import time

from sensorium import errors
from sensorium.engine.ipc.channel import Channel, ChannelError, Frame

#: How long a step may go on after the parent's death.
GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serves the process at the other end of the socket until it closes it.

    Returns:
        The exit status: 0: asked to end, or the parent is gone; 1: the engine died; 2: it could
        not start, or what came made no sense.
    """
    # Ctrl-C in the parent's terminal is for the parent, who aborts its requests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    _die_with(parent)
    sock = socket.socket(fileno=descriptor)
    threading.Thread(target=_watch, args=(descriptor,), daemon=True).start()
    channel = Channel(sock)
    try:
        frames = _first_frames(channel)
        if frames is None:
            return 0
        hello = json.loads(frames[0].payload)
        sys.path[:] = hello["path"]
        package = os.path.dirname(errors.__file__)
        if os.path.realpath(package) != os.path.realpath(hello["package"]):
            raise ValueError(
                f"it found sensorium in {package}, and its parent in {hello['package']}"
            )
        from sensorium.engine.ipc.service import serve  # whose imports need the parent's path

        return serve(channel, frames[1:])
    except (ChannelError, ValueError) as error:
        print(f"the engine's process ends: {error}", file=sys.stderr)
        return 2


def _first_frames(channel: Channel) -> list[Frame] | None:
    """The frames read until the first message is complete; None: the parent is gone."""
    while True:
        frames = channel.receive(wait=True)
        if frames is None or frames:
            return frames


def _die_with(parent: int) -> None:
    """Has the kernel end this process with the thread that started it, whatever it does then."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before


def _watch(descriptor: int) -> None:
    """Ends the process when the parent has closed the socket and the engine doesn't notice."""
    poller = select.poll()
    poller.register(descriptor, 0)  # only POLLHUP, which poll always reports
    poller.poll()
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
