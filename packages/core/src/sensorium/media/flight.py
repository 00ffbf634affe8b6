"""``SingleFlight``: work for one key runs once, however many requests wait for it.

Work runs in the executor's threads; waiters are coroutines, of any number of event loops. A
waiter that is cancelled leaves the others undisturbed, and work that nobody waits for any
more is dropped if it hasn't started. It knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from sensorium.errors import EngineClosedError

Result = TypeVar("Result")


async def run_in(executor: Executor, work: Callable[[], Result]) -> Result:
    """Runs ``work`` in the executor; if the caller is cancelled before it begins, it won't.

    Raises:
        EngineClosedError: the executor was shut down before the work began.
    """
    future = _submit(executor, work)
    try:
        return await _wait(future)
    finally:
        future.cancel()  # does nothing once the work has begun


@dataclass(slots=True)
class _Flight(Generic[Result]):
    future: Future[Result]
    num_waiters: int = 0


class SingleFlight(Generic[Result]):
    """Running work by key."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._flights: dict[bytes, _Flight[Result]] = {}
        # Re-entrant: cancelling a future calls ``_land`` in the same thread.
        self._lock = threading.RLock()

    async def run(
        self,
        key: bytes,
        find: Callable[[], Result | None],
        work: Callable[[], Result] | None,
    ) -> tuple[Result | None, bool]:
        """Returns (result, True if it was found or shared, False if this call's work made it).

        Args:
            find: looks whether earlier work left a result; ``work`` must store its result
                where ``find`` sees it before it returns.
            work: None: only find or share; the result is None if there is nothing.

        Raises:
            whatever ``work`` raises. A failure isn't shared: who waited for another's work
            does its own.
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                own = flight is None
                if flight is None:
                    found = find()
                    if found is not None or work is None:
                        return found, True
                    flight = self._start(key, work)
                flight.num_waiters += 1
            try:
                return await _wait(flight.future), not own
            except Exception:
                if own or flight.future.cancelled():
                    raise
            finally:
                self._leave(flight)

    def try_here(
        self, key: bytes, find: Callable[[], Result | None], work: Callable[[], Result]
    ) -> tuple[Result | None, bool]:
        """As ``run``, for a thread of the executor, which does the work itself and doesn't wait.

        Returns:
            (None, False) where another is at it: ``run`` waits for that one.
        """
        with self._lock:
            if key in self._flights:
                return None, False
            found = find()
            if found is not None:
                return found, True
            future: Future[Result] = Future()
            future.set_running_or_notify_cancel()
            self._register(key, _Flight(future))
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(result)
        return result, False

    def _start(self, key: bytes, work: Callable[[], Result]) -> _Flight[Result]:
        flight = _Flight(_submit(self._executor, work))
        self._register(key, flight)
        return flight

    def _register(self, key: bytes, flight: _Flight[Result]) -> None:
        self._flights[key] = flight
        flight.future.add_done_callback(lambda _: self._land(key, flight))

    def _land(self, key: bytes, flight: _Flight[Result]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _leave(self, flight: _Flight[Result]) -> None:
        with self._lock:
            flight.num_waiters -= 1
            if flight.num_waiters == 0:
                flight.future.cancel()  # does nothing once the work has begun


def _submit(executor: Executor, work: Callable[[], Result]) -> Future[Result]:
    try:
        return executor.submit(work)
    except RuntimeError:
        raise EngineClosedError("The engine was closed.") from None


async def _wait(future: Future[Result]) -> Result:
    """Waits without cancelling the future when the waiter is cancelled."""
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and not (task and task.cancelling()):
            raise EngineClosedError("The engine was closed while the request waited.") from None
        raise
