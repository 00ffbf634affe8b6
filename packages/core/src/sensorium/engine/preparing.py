"""``Preparations``: requests that are being prepared and not yet known to the engine's loop.

They wait for threads and for media. Closing the engine, or aborting a request by its name, ends
them here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from types import TracebackType

from sensorium.errors import EngineClosedError, EngineError


class AbortedError(Exception):
    """The request was aborted while it was being prepared."""


class Preparations:
    """The preparations of one engine; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Preparation] = set()
        self._closed: EngineError | None = None

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed is not None

    def begin(self, name: str) -> Preparation:
        """A context for the preparation of one request, on its own event loop's task.

        Args:
            name: the request's id.
        """
        return Preparation(self, name)

    def abort(self, names: Collection[str]) -> None:
        """Ends the preparations of these requests with ``AbortedError``."""
        with self._lock:
            found = [p for p in self._running if p.name in names]
        for preparation in found:
            preparation.end(AbortedError())

    def close(self) -> None:
        """Ends all preparations, those to come too, with ``EngineClosedError``."""
        error = EngineClosedError("The engine was closed.")
        with self._lock:
            self._closed = error
            found = list(self._running)
        for preparation in found:
            preparation.end(error)

    def enter(self, preparation: Preparation) -> None:
        """Called by a preparation that begins.

        Raises:
            EngineClosedError: the engine is closed.
        """
        with self._lock:
            if self._closed is None:
                self._running.add(preparation)
                return
        raise EngineClosedError("The engine was closed.")

    def leave(self, preparation: Preparation) -> None:
        """Called by a preparation that has ended."""
        with self._lock:
            self._running.discard(preparation)


class Preparation:
    """One request's preparation: a context that ``end`` ends from any thread.

    As ``asyncio.timeout`` does, it cancels its task and turns the cancellation into the error,
    unless the task's owner has cancelled it as well.
    """

    def __init__(self, owner: Preparations, name: str) -> None:
        self.name = name
        self._owner = owner
        self._error: Exception | None = None
        self._has_left = False
        self._has_cancelled = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "prompts are prepared by tasks"
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._num_cancelled = task.cancelling()
        self._owner.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._has_left = True
        self._owner.leave(self)
        if self._error is None:
            return
        left = self._task.uncancel() if self._has_cancelled else self._task.cancelling()
        if left <= self._num_cancelled:
            raise self._error from None

    def end(self, error: Exception) -> None:
        """Ends it with ``error``, wherever it waits; from any thread."""
        self._error = error
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            return  # its event loop is closed, so no caller waits

    def _cancel(self) -> None:
        if not self._has_left:
            self._has_cancelled = True
            self._task.cancel()
