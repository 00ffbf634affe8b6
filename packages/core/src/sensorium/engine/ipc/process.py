"""``EngineProcess``: starting the engine's process, and ending it.

It is executed, not forked and not started by ``multiprocessing``: it shares nothing with this
process, and a script needs no main guard.
"""

from __future__ import annotations

import json
import os
import signal
import site
import socket
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

from sensorium import errors
from sensorium.engine.ipc.channel import Channel, ChannelClosedError
from sensorium.errors import EngineDeadError

MODULE = "sensorium.engine.ipc.worker"
#: The folder of the package that this process runs.
PACKAGE = Path(errors.__file__).parent
#: Frames of some hundred requests; what a system allows may be less.
_SOCKET_BYTES = 2**22


class EngineProcess:
    """One process that listens at the other end of ``channel``.

    The thread that makes it must live as long: the process ends with it.

    Raises:
        EngineDeadError: no process can be started.
    """

    def __init__(self) -> None:
        if not sys.executable:
            raise EngineDeadError(
                "The engine's process can't be started: this interpreter doesn't know where its "
                "program lies (sys.executable is empty). Pass engine_process=False."
            )
        self.socket, theirs = socket.socketpair()
        with theirs:
            for sock in (self.socket, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            command = [sys.executable, "-P", "-m", MODULE, str(theirs.fileno()), str(os.getpid())]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    # Of a group of its own: Ctrl-C in a terminal goes to the foreground's.
                    process_group=0,
                )
            except OSError as error:
                self.socket.close()
                raise EngineDeadError(
                    f"The engine's process can't be started ({error.strerror})."
                ) from error
        self.channel = Channel(self.socket)
        path = [os.path.abspath(entry) for entry in sys.path]  # "" is the working directory
        hello = {"path": path, "package": str(PACKAGE)}
        with suppress(ChannelClosedError):  # the listening thread finds the process dead next
            self.channel.send(json.dumps(hello).encode())

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def end(self, grace_s: float) -> str:
        """Waits for its end, and ends it after ``grace_s``; the socket is closed.

        Returns:
            How it ended, for a message.
        """
        try:
            status = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self.channel.close()
        if status >= 0:
            return f"exit status {status}"
        return f"signal {-status}, {signal.Signals(-status).name}"


def _environment() -> dict[str, str]:
    """Ours, in which ``-m`` finds the package that this process runs.

    The whole of ``sys.path`` follows over the socket. Only a package that a program put there by
    itself needs to be named here.
    """
    environment = dict(os.environ)
    root = PACKAGE.parent
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    found.append(site.getusersitepackages())
    given = "" if sys.flags.ignore_environment else environment.get("PYTHONPATH", "")
    entries = [str(root)] if str(root) not in found else []
    environment["PYTHONPATH"] = os.pathsep.join([*entries, *([given] if given else [])])
    if not environment["PYTHONPATH"]:
        del environment["PYTHONPATH"]
    return environment
