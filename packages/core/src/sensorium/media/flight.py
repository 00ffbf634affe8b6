"""``SingleFlight``: work for one key runs once, however many requests wait for it.

Work runs in threads; waiters are coroutines, of any number of event loops. A waiter that is
cancelled leaves the others undisturbed. It knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from sensorium.errors import EngineClosedError

Result = TypeVar("Result")


async def run_in(executor: Executor, work: Callable[[], Result]) -> Result:
    """Runs ``work`` in the executor; if the caller is cancelled before it begins, it won't.

    Raises:
        EngineClosedError: the executor was shut down before the work began.
    """
    try:
        future = executor.submit(work)
    except RuntimeError:
        raise EngineClosedError("The engine was closed.") from None
    try:
        return await _wait(future)
    finally:
        future.cancel()  # does nothing once the work has begun
        del future  # it refers to an exception, and the exception to this frame


class SingleFlight(Generic[Result]):
    """Running work by key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Future[Result | None]] = {}  # None: the work failed
        self._lock = threading.Lock()

    async def join(self, key: bytes, find: Callable[[], Result | None]) -> Result | None:
        """What ``find`` finds, or what comes of the work that runs for the key.

        Returns:
            None where there is neither, or the work failed: a failure isn't shared, and a caller
            that waited for it does the work itself.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                return find()
        return await _wait(flight)

    def run_here(
        self, key: bytes, find: Callable[[], Result | None], work: Callable[[], Result]
    ) -> tuple[Result | None, bool]:
        """Finds or works, in the caller's own thread.

        Args:
            find: looks whether earlier work left a result; ``work`` must store its result where
                ``find`` sees it before it returns.

        Returns:
            (result, True if it was found, False if ``work`` made it); (None, False) where another
            thread is doing the work: ``join`` waits for it.

        Raises:
            whatever ``work`` raises.
        """
        with self._lock:
            if key in self._flights:
                return None, False
            found = find()
            if found is not None:
                return found, True
            flight: Future[Result | None] = Future()
            flight.set_running_or_notify_cancel()
            self._flights[key] = flight
        result: Result | None = None
        try:
            result = work()
        finally:
            self._land(key)
            flight.set_result(result)
        return result, False

    def _land(self, key: bytes) -> None:
        with self._lock:
            del self._flights[key]


async def _wait(future: Future[Result]) -> Result:
    """Waits without cancelling the future when the waiter is cancelled."""
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        if future.cancelled() and not _is_being_cancelled():
            raise EngineClosedError("The engine was closed while the request waited.") from None
        raise
    finally:
        del future  # it refers to an exception, and the exception to this frame


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
