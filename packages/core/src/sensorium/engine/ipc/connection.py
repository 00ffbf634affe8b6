"""``Connection``: the state that belongs to one engine process and is lost with it.

Calls that wait for their result, frames that wait for the socket, segments that hold features. When
the process dies, ``fail`` ends all of it, and the next process gets a connection of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any

from sensorium.engine.ipc import messages
from sensorium.engine.ipc.messages import Placement
from sensorium.engine.ipc.outbox import Outbox
from sensorium.engine.ipc.segments import SegmentPool
from sensorium.errors import EngineError
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import EngineItem, EngineRequest

logger = logging.getLogger("sensorium.engine")

#: Features of a request up to this size are copied on the caller's thread: handing them over takes
#: as long.
MAX_INLINE_BYTES = 2**21


class Connection:
    """The calls on one engine process; from any thread, before it is ready too.

    Args:
        on_rest: as for ``Outbox``.
        packer: one thread, that copies features beside the callers.
    """

    def __init__(self, on_rest: Callable[[], None], packer: Executor) -> None:
        self.outbox = Outbox(on_rest)
        self.segments = SegmentPool(
            lambda number, size, descriptor: self.outbox.send(
                messages.encode("segment", number, size), descriptor
            ),
            lambda numbers: self.outbox.send(messages.encode("drop", numbers)),
        )
        self._packer = packer
        self._lock = threading.Lock()
        self._calls: dict[int, tuple[Future[Any], str | None]] = {}
        self._num_calls = 0
        self._failed: EngineError | None = None
        self._requests: set[str] = set()
        self._was_used = False
        self._packing: set[str] = set()
        self._aborted_packing: set[str] = set()

    @property
    def failure(self) -> EngineError | None:
        """What ended it."""
        return self._failed

    @property
    def was_used(self) -> bool:
        """Whether the process was given a request."""
        return self._was_used

    def call(self, name: str) -> Future[Any] | None:
        """One of the engine's calls without arguments; None: the connection has failed."""
        new = self._new_call()
        if new is None:
            return None
        call_id, result = new
        self.outbox.send(messages.encode("call", call_id, name))
        return result

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None] | None:
        """As ``EngineClient.compile``; None: the connection has failed."""
        new = self._new_call()
        if new is None:
            return None
        call_id, result = new
        self.outbox.send(messages.encode("compile", call_id, form, eos_ids))
        return result

    def add(self, request: EngineRequest) -> Future[None] | None:
        """As ``EngineClient.add``; None: the connection has failed, and the request is not lost.

        Large features are copied on the packer's thread, small ones on the caller's: while media
        are prepared, a second thread would wait for the interpreter's lock behind all media
        threads.
        """
        new = self._new_call(request.request_id)
        if new is None:
            return None
        call_id, result = new
        if sum(map(_num_feature_bytes, request.items)) <= MAX_INLINE_BYTES:
            self._pack_and_add(call_id, request)
            return result
        with self._lock:
            self._packing.add(request.request_id)
        try:
            self._packer.submit(self._pack_and_add, call_id, request)
        except RuntimeError:  # shut down: ``fail`` ends the call
            logger.debug("a request came while the engine was being closed")
        return result

    def abort(self, request_ids: Iterable[str]) -> None:
        """As ``EngineClient.abort``."""
        ids = tuple(request_ids)
        with self._lock:
            self._aborted_packing.update(self._packing.intersection(ids))
        self.outbox.send(messages.encode("abort", ids))

    def resolve(self, call_id: int, value: Any, error: tuple[str, str, bool] | None) -> None:
        """The engine's answer to a call."""
        with self._lock:
            result, request_id = self._calls.pop(call_id, (None, None))
            if error is not None and request_id is not None:
                self._requests.discard(request_id)  # refused requests never have an update
        if result is None:
            return
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(messages.unpack_error(*error))

    def forget(self, request_ids: Iterable[str]) -> None:
        """Requests have had their last update."""
        with self._lock:
            self._requests.difference_update(request_ids)

    def fail(self, error: EngineError) -> frozenset[str]:
        """Ends every call with ``error``, and takes no more.

        Returns:
            The requests that end with it.
        """
        with self._lock:
            self._failed = error
            calls = [result for result, _ in self._calls.values()]
            self._calls.clear()
            requests = frozenset(self._requests)
        self.outbox.close()
        self.segments.close()
        for result in calls:
            result.set_exception(error)
        return requests

    def _new_call(self, request_id: str | None = None) -> tuple[int, Future[Any]] | None:
        result: Future[Any] = Future()
        result.set_running_or_notify_cancel()  # a call that was sent can't be taken back
        with self._lock:
            if self._failed is not None:
                return None
            call_id = self._num_calls
            self._num_calls += 1
            self._calls[call_id] = result, request_id
            if request_id is not None:
                self._requests.add(request_id)
                self._was_used = True
            return call_id, result

    def _pack_and_add(self, call_id: int, request: EngineRequest) -> None:
        placements: list[Placement | None] = []
        payload = None
        try:
            for item in request.items:
                placed = self.segments.place(item.key, item.features) if item.features else None
                placements.append(placed)
            payload = messages.encode_add(call_id, request, placements)
        except Exception as error:
            self.segments.release(p.segment for p in placements if p and p.segment is not None)
            if not isinstance(error, EngineError):
                logger.exception("a request can't be sent to the engine's process")
            self.resolve(call_id, None, messages.pack_error(error))
        with self._lock:
            self._packing.discard(request.request_id)
            aborted = request.request_id in self._aborted_packing
            self._aborted_packing.discard(request.request_id)
            if payload is not None:
                self.outbox.send(payload)
            if aborted:  # the caller aborted before the engine knew of the request
                self.outbox.send(messages.encode("abort", (request.request_id,)))


def _num_feature_bytes(item: EngineItem) -> int:
    return sum(t.nbytes for tensors in item.features.values() for t in tensors.values())
