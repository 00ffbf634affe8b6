"""``Owner``: closes an engine that is no longer referenced, and refuses its use after a fork.

Used by ``AsyncEngine`` and by ``LLM``.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from sensorium.errors import EngineError

#: How long the thread that drops the last reference waits for the engine to end.
_WAIT_S = 15.0
#: What the names of our own threads begin with.
_OWN_THREADS = "sensorium"


class Owner:
    """The process that made an engine, and the function that closes it.

    Args:
        face: the object that callers hold; when it is collected, ``close`` is called.
        close: closes the engine; it must not refer to ``face``.
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
        """Refuses use in a forked child, which has the engine's locks and queues without its
        threads.

        Raises:
            EngineError: this process was forked from the one that made the engine.
        """
        if os.getpid() != self._pid:
            raise EngineError(
                f"This engine was made by process {self._pid}, of which this one "
                f"({os.getpid()}) is a fork without its threads. Make an engine after forking."
            )

    def close(self) -> None:
        """Closes the engine, once; does nothing in a forked child."""
        if os.getpid() == self._pid and self._finalizer.detach() is not None:
            self._close()


def _collected(close: Callable[[], None], pid: int) -> None:
    """Nobody refers to the face any more.

    The garbage collector may run in any thread, whatever locks that holds, so the engine is closed
    in another thread.
    """
    if os.getpid() != pid:
        return
    thread = threading.Thread(target=close, name=f"{_OWN_THREADS}-close", daemon=True)
    thread.start()
    if not threading.current_thread().name.startswith(_OWN_THREADS):
        thread.join(_WAIT_S)
