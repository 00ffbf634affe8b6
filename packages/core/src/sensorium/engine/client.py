"""``EngineClient``: the only door to a running engine, wherever it runs.

``ThreadClient`` runs it in a thread of this process. A client whose engine is a process of
its own implements the same protocol.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from sensorium.engine.core import EngineCore
from sensorium.errors import EngineClosedError, EngineDeadError, EngineError
from sensorium.types import EngineRequest, RequestUpdate

logger = logging.getLogger("sensorium.engine")

OnUpdates = Callable[[Sequence[RequestUpdate]], None]
OnStopped = Callable[[EngineError], None]


class EngineClient(Protocol):
    """What a frontend may ask of an engine. Every method may be called from any thread."""

    def start(self, on_updates: OnUpdates, on_stopped: OnStopped) -> None:
        """Starts the engine.

        ``on_updates`` is called after every step that has news; ``on_stopped`` once, when no
        update will follow any more. Both are called on the client's own thread and must
        return at once.
        """

    def add(self, request: EngineRequest) -> Future[None]:
        """Queues a request; the future fails with ``LimitError`` if it can never fit."""

    def abort(self, request_ids: Iterable[str]) -> None:
        """Ends requests early; unknown ids are ignored. Their last update says "abort"."""

    def reset_prefix_cache(self) -> Future[bool]:
        """Forgets all cached pages; False if running requests still hold some."""

    def reset_encoder_cache(self) -> Future[None]:
        """Forgets all embeddings that no running request needs."""

    def check_integrity(self) -> Future[None]:
        """Fails with AssertionError if the engine's books don't balance."""

    def close(self) -> None:
        """Ends the engine and its running requests; waits until its memory is given back."""


@dataclass(frozen=True, slots=True)
class _Call:
    """Something to do on the engine's thread between two steps."""

    function: Callable[[], Any]
    result: Future[Any]


class ThreadClient:
    """An engine in a daemon thread of this process."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name="sensorium-engine", daemon=True)

    def start(self, on_updates: OnUpdates, on_stopped: OnStopped) -> None:
        self._on_updates = on_updates
        self._on_stopped = on_stopped
        self._thread.start()

    def add(self, request: EngineRequest) -> Future[None]:
        return self._call(lambda: self._core.scheduler.add(request))

    def abort(self, request_ids: Iterable[str]) -> None:
        ids = tuple(request_ids)
        self._call(lambda: self._report(self._core.scheduler.abort(ids)))

    def reset_prefix_cache(self) -> Future[bool]:
        return self._call(self._core.scheduler.reset_prefix_cache)

    def reset_encoder_cache(self) -> Future[None]:
        return self._call(self._core.scheduler.reset_encoder_cache)

    def check_integrity(self) -> Future[None]:
        return self._call(self._core.scheduler.check_integrity)

    def close(self) -> None:
        with self._lock:
            if self._stopped is None:
                self._stopped = EngineClosedError("The engine was closed.")
            self._inbox.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    # --- on the engine's thread -------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_calls():
                self._report(self._core.step())
        except BaseException as error:
            logger.exception("the engine died")
            with self._lock:
                self._stopped = EngineDeadError(
                    f"The engine died of an internal error ({type(error).__name__}); "
                    "its log has the cause."
                )
        self._refuse_rest()
        assert self._stopped is not None
        self._on_stopped(self._stopped)
        self._core.close()

    def _take_calls(self) -> bool:
        """Does what was asked for since the last step, waiting if there is nothing to run.

        Returns False once the client is being closed.
        """
        while True:
            try:
                call = self._inbox.get(block=not self._core.scheduler.has_work)
            except queue.Empty:
                return True
            if call is None:
                return False
            _carry_out(call)

    def _report(self, updates: Sequence[RequestUpdate]) -> None:
        if updates:
            self._on_updates(updates)

    def _refuse_rest(self) -> None:
        """Fails the calls that nobody will carry out any more."""
        while True:
            try:
                call = self._inbox.get_nowait()
            except queue.Empty:
                return
            if call is not None and call.result.set_running_or_notify_cancel():
                assert self._stopped is not None
                call.result.set_exception(self._stopped)

    # --- on the callers' threads ------------------------------------------------------

    def _call(self, function: Callable[[], Any]) -> Future[Any]:
        result: Future[Any] = Future()
        with self._lock:
            if self._stopped is None:
                self._inbox.put(_Call(function, result))
            else:
                result.set_exception(self._stopped)
        return result


def _carry_out(call: _Call) -> None:
    if not call.result.set_running_or_notify_cancel():
        return
    try:
        call.result.set_result(call.function())
    except Exception as error:
        call.result.set_exception(error)
