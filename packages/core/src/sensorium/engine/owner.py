"""What an engine's face owes its engine: giving it back when nobody refers to it, and forks.

Used by ``AsyncEngine`` and by ``LLM``.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from sensorium.errors import EngineError

#: How long whoever drops the last reference waits for the engine's end: a step, and memory.
_WAIT_S = 15.0
#: What the names of our own threads begin with.
_OWN_THREADS = "sensorium"


class Owner:
    """The process that made an engine, and what gives the engine back.

    Args:
        face: what callers hold; when it is collected, ``close`` is called.
        close: gives back; it must not refer to ``face``.
    """

    def __init__(self, face: object, close: Callable[[], None]) -> None:
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(face, _collected, close, self._pid)
        self._finalizer.atexit = False  # the process takes its threads along, and the engine's
        self._close = close

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return not self._finalizer.alive

    def check_process(self) -> None:
        """An engine's threads and sockets don't survive a fork; its lock and queues seem to.

        Raises:
            EngineError: this process was forked from the one that made the engine.
        """
        if os.getpid() != self._pid:
            raise EngineError(
                f"This engine was made by process {self._pid}, of which this one "
                f"({os.getpid()}) is a fork without its threads. Make an engine after forking."
            )

    def close(self) -> None:
        """Gives back, once; nothing happens in a forked child."""
        if os.getpid() == self._pid and self._finalizer.detach() is not None:
            self._close()


def _collected(close: Callable[[], None], pid: int) -> None:
    """Nobody refers to the face any more.

    The collector may run in any thread, whatever locks that holds: closing is another's work.
    """
    if os.getpid() != pid:
        return
    thread = threading.Thread(target=close, name=f"{_OWN_THREADS}-close", daemon=True)
    thread.start()
    if not threading.current_thread().name.startswith(_OWN_THREADS):
        thread.join(_WAIT_S)
