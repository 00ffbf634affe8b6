"""``EngineClient``: the frontend's only interface to a running engine, wherever it runs.

``ThreadClient`` runs it in a thread of this process; ``ProcessClient`` (its own file) in a process
of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from sensorium.engine.build import EngineInfo
from sensorium.engine.core import EngineCore
from sensorium.engine.loop import Call, EngineLoop
from sensorium.errors import EngineClosedError, EngineDeadError, EngineError, SensoriumError
from sensorium.stats import CoreStats
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import EngineRequest, RequestUpdate

logger = logging.getLogger("sensorium.engine")

OnUpdates = Callable[[Sequence[RequestUpdate]], None]
#: The error, and the requests that it ends; None: all.
OnStopped = Callable[[EngineError, Collection[str] | None], None]


class EngineClient(Protocol):
    """The calls that a frontend may make on an engine. Every method may be called from any
    thread."""

    def start(self, on_updates: OnUpdates, on_stopped: OnStopped) -> None:
        """Starts the engine.

        ``on_updates`` is called after every step that has updates. ``on_stopped`` is called with
        the requests for which no update will follow: with all requests at the end, and, when an
        engine's process dies and another takes its place, with the requests of the dead process.
        Both are called on the client's own thread and must return at once.
        """

    @property
    def is_healthy(self) -> bool:
        """Whether an engine runs that takes requests now; not while its process starts again."""

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None]:
        """Gets the grammar of a form ready for requests that are added later.

        The future fails with the ``SensoriumError`` that says why it can't be used.
        """

    def add(self, request: EngineRequest) -> Future[None]:
        """Queues a request; the future fails with ``LimitError`` if it can never fit."""

    def abort(self, request_ids: Iterable[str]) -> None:
        """Ends requests early; unknown ids are ignored. Their last update says "abort"."""

    def reset_prefix_cache(self) -> Future[bool]:
        """Forgets all cached pages; False if running requests still hold some."""

    def reset_encoder_cache(self) -> Future[None]:
        """Forgets all embeddings that no running request needs."""

    def stats(self) -> Future[CoreStats]:
        """What the engine has counted, taken between two steps."""

    @property
    def num_restarts(self) -> int:
        """How many processes were started to replace a dead one."""

    def check_integrity(self) -> Future[None]:
        """Fails with AssertionError if the engine's books don't balance."""

    def close(self) -> None:
        """Ends the engine and its running requests; waits until its memory is given back."""


class ThreadClient:
    """An engine in a daemon thread of this process.

    The engine is built in that thread as well. OpenMP gives each computing thread a team of helpers
    of its own, and lets helpers spin only while there are no more of them than cores. With a second
    team, every parallel region of both would wait for the kernel to wake helpers.

    Args:
        build: makes the engine.
    """

    def __init__(self, build: Callable[[], tuple[EngineCore, EngineInfo]]) -> None:
        self._build = build
        self._ready: Future[EngineInfo] = Future()
        self._is_started = threading.Event()
        self._on_stopped: OnStopped | None = None
        self._inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name="sensorium-engine", daemon=True)
        self._thread.start()

    def wait_ready(self) -> EngineInfo:
        """Waits until the engine is built.

        Raises:
            ConfigError, PluginError: as ``build``.
        """
        return self._ready.result()

    def start(self, on_updates: OnUpdates, on_stopped: OnStopped) -> None:
        self._loop = EngineLoop(self._core, self._inbox, on_updates)
        self._on_stopped = on_stopped
        self._is_started.set()

    @property
    def is_healthy(self) -> bool:
        return self._stopped is None and self._is_started.is_set()

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None]:
        with self._lock:
            if self._stopped is None:
                return self._core.compile(form, eos_ids)
        refused: Future[None] = Future()
        refused.set_exception(self._stopped)
        return refused

    def add(self, request: EngineRequest) -> Future[None]:
        return self._call(lambda: self._core.add(request))

    def abort(self, request_ids: Iterable[str]) -> None:
        ids = tuple(request_ids)
        self._call(lambda: self._loop.report(self._core.abort(ids)))

    def reset_prefix_cache(self) -> Future[bool]:
        return self._call(self._core.scheduler.reset_prefix_cache)

    def reset_encoder_cache(self) -> Future[None]:
        return self._call(self._core.scheduler.reset_encoder_cache)

    def stats(self) -> Future[CoreStats]:
        return self._call(lambda: self._loop.stats())

    @property
    def num_restarts(self) -> int:
        return 0  # an engine in a thread is not restarted

    def check_integrity(self) -> Future[None]:
        return self._call(self._core.scheduler.check_integrity, Exception)

    def close(self) -> None:
        with self._lock:
            if self._stopped is None:
                self._stopped = EngineClosedError("The engine was closed.")
            self._inbox.put(None)
        self._is_started.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    # --- on the engine's thread -------------------------------------------------------

    def _run(self) -> None:
        try:
            self._core, info = self._build()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(info)
        self._is_started.wait()
        if self._on_stopped is not None:
            self._serve(self._on_stopped)
        self._core.close()

    def _serve(self, on_stopped: OnStopped) -> None:
        try:
            self._loop.run()
        except BaseException as error:
            logger.exception("the engine died")
            with self._lock:
                self._stopped = EngineDeadError(death_sentence(error))
        self._refuse_rest()
        assert self._stopped is not None
        on_stopped(self._stopped, None)

    def _refuse_rest(self) -> None:
        """Fails the calls that will never be carried out."""
        while True:
            try:
                call = self._inbox.get_nowait()
            except queue.Empty:
                return
            if call is not None and call.result.set_running_or_notify_cancel():
                assert self._stopped is not None
                call.result.set_exception(self._stopped)

    # --- on the callers' threads ------------------------------------------------------

    def _call(
        self, function: Callable[[], Any], expected: type[Exception] = SensoriumError
    ) -> Future[Any]:
        call = Call(function, expected)
        with self._lock:
            if self._stopped is None:
                self._inbox.put(call)
            else:
                call.result.set_exception(self._stopped)
        return call.result


def death_sentence(error: BaseException) -> str:
    """The error of an engine that an exception ended."""
    return f"The engine died of an internal error ({type(error).__name__}); its log has the cause."
