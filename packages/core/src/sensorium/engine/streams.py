"""``Streams``: passes updates from the client's thread to the event loops that read them.

    a step's updates ─ grouped by loop ─→ Mailbox ─ one call into the loop ─→ Stream: RequestState

Updates that a loop hasn't taken yet are taken together with the next ones, so a busy loop is called
once, not once a step. A stream wakes its reader only when there is something to read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Sequence

from sensorium.errors import CacheMissError, EngineError, RequestError, named_error
from sensorium.output import PooledState, RequestState
from sensorium.types import RequestUpdate

logger = logging.getLogger("sensorium.engine")

Event = RequestUpdate | EngineError
Abort = Callable[[Sequence[str]], None]
State = RequestState | PooledState


class Stream:
    """One request's way to the coroutine that reads it; used on its event loop alone.

    Args:
        state: takes the updates; with ``only_final`` the reader sleeps until its end.
        abort: ends the sequences that a stop string has ended here.
    """

    __slots__ = (
        "_abort",
        "_error",
        "_has_news",
        "_reader",
        "mailbox",
        "state",
        "was_aborted",
    )

    def __init__(self, mailbox: Mailbox, state: State, abort: Abort) -> None:
        self.mailbox = mailbox
        self.state = state
        self.was_aborted = False
        self._abort = abort
        self._error: Exception | None = None
        self._has_news = False
        self._reader: asyncio.Future[None] | None = None

    def take(self, event: Event) -> None:
        """An update, or what ended the request."""
        if self._error is None:
            try:
                self._apply(event)
            except Exception as error:
                self._error = error
        if self.state.only_final and self._error is None and not self.state.finished:
            return
        self._has_news = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _apply(self, event: Event) -> None:
        if isinstance(event, EngineError):
            raise event
        if event.lost_item:
            raise CacheMissError(event.error or "An item has left the caches.", retryable=True)
        if event.finish_reason == "error":
            sentence = event.error or "The engine failed this request."
            raise named_error(event.error_class, sentence) or EngineError(sentence)
        ended_here = self.state.apply(event)
        if ended_here:
            self._abort(ended_here)

    async def news(self) -> None:
        """Waits until the state has changed since the last call (or has come to its end).

        Raises:
            EngineError: the engine failed or was closed.
            CacheMissError: an item has left the caches.
        """
        while not self._has_news:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        self._has_news = False
        if self._error is not None:
            raise self._error


class Mailbox:
    """The way to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # The mailboxes hang on their loops, which a reference back would keep alive.
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Stream, Event]] = []

    def put(self, events: list[tuple[Stream, Event]]) -> None:
        """From any thread; drops updates for a loop that is closed, which has no readers."""
        with self._lock:
            is_called = bool(self._waiting)
            self._waiting += events
        loop = self._loop()
        if is_called or loop is None:
            return
        try:
            loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            logger.debug("updates arrived for requests whose event loop is closed")

    def _deliver(self) -> None:
        with self._lock:
            events, self._waiting = self._waiting, []
        for stream, event in events:
            stream.take(event)


class Streams:
    """The streams of one engine's requests; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._by_id: dict[str, Stream] = {}
        self._mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = (
            weakref.WeakKeyDictionary()
        )

    def open(self, state: State, abort: Abort) -> Stream:
        """A stream for a request that the running loop reads; made before the engine gets the
        request.

        Raises:
            RequestError: there is an unfinished request with this name.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            mailbox = self._mailboxes.get(loop)
            if mailbox is None:
                mailbox = self._mailboxes[loop] = Mailbox(loop)
            if state.request_id in self._names:
                raise RequestError(f"A request with the id {state.request_id} is running already.")
            self._names.add(state.request_id)
            stream = Stream(mailbox, state, abort)
            self._by_id.update(dict.fromkeys(state.child_ids, stream))
        return stream

    def close(self, stream: Stream) -> None:
        """Forgets a stream; later updates for it are dropped."""
        with self._lock:
            self._names.discard(stream.state.request_id)
            for child in stream.state.child_ids:
                self._by_id.pop(child, None)

    def abort(self, names: Collection[str]) -> list[str]:
        """Marks the requests of these names as aborted; returns their sequences' ids."""
        with self._lock:
            found = {s for s in self._by_id.values() if s.state.request_id in names}
        for stream in found:
            stream.was_aborted = True
        return [child for stream in found for child in stream.state.child_ids]

    def deliver(self, updates: Sequence[RequestUpdate]) -> None:
        """Hands a step's updates over, once for each loop."""
        by_mailbox: dict[Mailbox, list[tuple[Stream, Event]]] = {}
        find = self._by_id.get
        for update in updates:
            stream = find(update.request_id)
            if stream is not None:
                by_mailbox.setdefault(stream.mailbox, []).append((stream, update))
        for mailbox, events in by_mailbox.items():
            mailbox.put(events)

    def end(self, error: EngineError, child_ids: Collection[str] | None) -> None:
        """Ends the requests to which these sequences belong; None: every request."""
        with self._lock:
            ids = self._by_id.keys() if child_ids is None else child_ids
            streams = {self._by_id[i] for i in ids if i in self._by_id}
        for stream in streams:
            stream.mailbox.put([(stream, error)])
