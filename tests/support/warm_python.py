"""Starts Python without importing torch and the packages again: a process that holds them forks.

``warm_popen`` gives a class that stands in for ``subprocess.Popen``. What it starts is a child of
this process like any other: it has a number, an exit status, the pipes and descriptors it was
given, and the death of its parent reaches it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sensorium.engine.ipc import process

_PR_SET_CHILD_SUBREAPER = 36
#: What the process that forks runs: it has one thread, for locks of others would stay locked.
_HOST = """
import contextlib, gc, socket, sys, threading
sys.path.insert(0, sys.argv[1])
from warm_python import serve
import torch, PIL.Image
import sensorium.llm, sensorium.engine.async_engine, sensorium.engine.ipc.service
from importlib.metadata import entry_points

for plugin in entry_points(group="sensorium.plugins"):
    plugin.load()
with contextlib.suppress(ImportError):  # of clients, which import what they use when they do
    import openai, openai.resources.chat, openai.resources.embeddings
assert threading.active_count() == 1
gc.freeze()  # else a first collection in each child copies every page
serve(socket.socket(fileno=int(sys.argv[2])))
"""


def _adopts_orphans(whether: bool) -> bool:
    """Says whether orphans among this process's descendants become its children; False: the system
    doesn't know how."""
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(whether)) == 0)


class Host:
    """The process that forks, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """The number of a new child of this process; see ``_become``."""
        with self._lock:
            if self._socket is None:
                self._start()
            assert self._socket is not None
            # The child's first parent ends at once, and the child becomes ours.
            assert _adopts_orphans(True)
            try:
                given = json.dumps({**request, "parent": os.getpid()}).encode()
                socket.send_fds(self._socket, [len(given).to_bytes(4, "little")], descriptors)
                self._socket.sendall(given)
                answer = self._socket.recv(4, socket.MSG_WAITALL)
            finally:
                _adopts_orphans(False)
        assert len(answer) == 4, "the process that forks has died"
        return int.from_bytes(answer, "little")

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            arguments = [str(Path(__file__).parent), str(theirs.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _HOST, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        """Ends it."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait()


def serve(asked: socket.socket) -> None:
    """Forks for each request; ends when nobody is left who asks."""
    while True:
        size, descriptors, _, _ = socket.recv_fds(asked, 4, 16)
        if not size:
            return
        request = json.loads(asked.recv(int.from_bytes(size, "little"), socket.MSG_WAITALL))
        read, write = os.pipe()
        if first := os.fork():
            os.waitpid(first, 0)  # whose child then has its new parent
            asked.sendall(os.read(read, 4))
            for descriptor in (read, write, *descriptors):
                os.close(descriptor)
            continue
        if child := os.fork():
            os.write(write, child.to_bytes(4, "little"))
            os._exit(0)
        asked.detach()
        _become(request, descriptors)
        return


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Runs Python with the request's arguments, environment, folder and descriptors."""
    while os.getppid() != request["parent"]:
        time.sleep(0.001)
    if request["own_group"]:
        os.setpgid(0, 0)
    numbers = request["numbers"]
    first = max(numbers) + 1
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, first + 16) for descriptor in descriptors]
    os.closerange(3, first + 16)
    for descriptor, number in zip(aside, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    match request["arguments"]:
        case ["-P", "-m", module, *_]:
            sys.argv = request["arguments"][2:]
            sys.path[:1] = paths
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [script, *_]:
            sys.argv = request["arguments"]
            sys.path[:1] = [os.path.dirname(script), *paths]
            runpy.run_path(script, run_name="__main__")


class WarmPopen(subprocess.Popen[Any]):
    """``subprocess.Popen`` of ``[sys.executable, SCRIPT, …]`` or ``[…, "-P", "-m", MODULE, …]``."""

    host: Host

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
    ) -> None:  # fmt: skip
        assert args[0] == sys.executable, args
        standard = [p2cread, c2pwrite, errwrite]
        descriptors = [n if given == -1 else given for n, given in enumerate(standard)]
        request = {
            "arguments": list(map(str, args[1:])),
            "environment": dict(os.environ if env is None else env),
            "folder": cwd or os.getcwd(),
            "numbers": [0, 1, 2, *pass_fds],
            "own_group": rest[-1] == 0,
        }
        try:
            self.pid = self.host.fork(request, [*descriptors, *pass_fds])
            self._child_created = True
        finally:
            pipes = (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


@contextmanager
def warm_popen() -> Iterator[type[subprocess.Popen[Any]]]:
    """Gives the class, or ``subprocess.Popen`` where systems lack what it needs; the process that
    forks ends with it."""
    if not _adopts_orphans(False):
        yield subprocess.Popen
        return
    host = Host()
    try:
        yield type("WarmPopen", (WarmPopen,), {"host": host})
    finally:
        host.close()


@contextmanager
def forked_engines(popen: type[subprocess.Popen[Any]]) -> Iterator[None]:
    """Meanwhile, engines' processes are started by the class."""
    process.subprocess = SimpleNamespace(  # type: ignore[assignment]
        **{**vars(subprocess), "Popen": popen}
    )
    try:
        yield
    finally:
        process.subprocess = subprocess
