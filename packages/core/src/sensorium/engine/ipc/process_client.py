"""``ProcessClient``: an engine in a process of its own, and another one when that dies.

    callers' threads ── Connection ── socket ──→ worker
    on_updates ←── the client's thread ←────────┘  starts it, listens, flushes, starts it again

The client's thread alone waits for the socket; callers never do.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from sensorium.engine.build import EngineInfo
from sensorium.engine.client import OnStopped, OnUpdates
from sensorium.engine.ipc import messages
from sensorium.engine.ipc.channel import ChannelError
from sensorium.engine.ipc.connection import Connection
from sensorium.engine.ipc.messages import MessageError
from sensorium.engine.ipc.process import EngineProcess
from sensorium.engine.ipc.setup import Setup
from sensorium.errors import EngineClosedError, EngineDeadError, EngineError, SensoriumError
from sensorium.stats import CoreStats
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import EngineRequest

logger = logging.getLogger("sensorium.engine")

#: How many processes in a row may die before they are given a request.
MAX_FAILED_STARTS = 3
#: How long an engine that was asked to end may take: a step, and giving memory back.
CLOSE_S = 10.0


class ProcessClient:
    """As ``EngineClient``. The process is started at once, and loads when ``load`` says what."""

    def __init__(self) -> None:
        self._setup: Setup | None = None
        self._ready: Future[EngineInfo] = Future()
        self._on_updates: OnUpdates | None = None
        self._on_stopped: OnStopped | None = None
        self._lock = threading.Lock()
        self._stopped: EngineError | None = None
        self._process: EngineProcess | None = None
        self._is_ready = False
        self._last_words: SensoriumError | None = None
        self._num_restarts = 0
        self._waker = _Waker()
        self._packer = ThreadPoolExecutor(1, thread_name_prefix="sensorium-features")
        self._connection = Connection(self._waker.wake, self._packer)
        self._retired = self._connection
        self._thread = threading.Thread(target=self._run, name="sensorium-engine", daemon=True)
        self._thread.start()

    # --- from any thread ----------------------------------------------------------------

    def load(self, setup: Setup) -> None:
        """Says what to load.

        Raises:
            ConfigError: options that can't cross.
        """
        messages.encode_setup(logging.NOTSET, setup)
        self._setup = setup
        self._waker.wake()

    def wait_ready(self) -> EngineInfo:
        """Waits until the engine has loaded.

        Raises:
            ConfigError, PluginError: as the engine's process raised them.
            EngineError: it died.
        """
        return self._ready.result()

    @property
    def is_healthy(self) -> bool:
        return self._is_ready and self._process is not None and self._stopped is None

    @property
    def pid(self) -> int | None:
        """The number of the process that runs; None between two."""
        process = self._process
        return None if process is None else process.pid

    def start(self, on_updates: OnUpdates, on_stopped: OnStopped) -> None:
        self._on_updates = on_updates
        self._on_stopped = on_stopped

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None]:
        return self._ask(lambda connection: connection.compile(form, eos_ids))

    def add(self, request: EngineRequest) -> Future[None]:
        return self._ask(lambda connection: connection.add(request))

    def abort(self, request_ids: Iterable[str]) -> None:
        self._connection.abort(request_ids)

    def reset_prefix_cache(self) -> Future[bool]:
        return self._ask(lambda connection: connection.call("reset_prefix_cache"))

    def reset_encoder_cache(self) -> Future[None]:
        return self._ask(lambda connection: connection.call("reset_encoder_cache"))

    def stats(self) -> Future[CoreStats]:
        return self._ask(lambda connection: connection.call("stats"))

    @property
    def num_restarts(self) -> int:
        return self._num_restarts

    def check_integrity(self) -> Future[None]:
        return self._ask(lambda connection: connection.call("check_integrity"))

    def close(self) -> None:
        with self._lock:
            if self._stopped is None:
                self._stopped = EngineClosedError("The engine was closed.")
        self._waker.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _ask(self, what: Callable[[Connection], Future[Any] | None]) -> Future[Any]:
        """Makes a call on the process that runs, or on the next one if it was just found dead."""
        while True:
            connection = self._connection
            result = what(connection)
            if result is not None:
                return result
            if connection is self._connection:  # it was the last
                assert connection.failure is not None
                refused: Future[Any] = Future()
                refused.set_exception(connection.failure)
                return refused

    def _has_stopped(self) -> bool:
        return self._stopped is not None

    # --- on the client's thread -----------------------------------------------------------

    def _run(self) -> None:
        num_failed = 0
        try:
            while not self._has_stopped():
                error = self._serve_one_process()
                served = self._is_ready and self._retired.was_used
                num_failed = 0 if served else num_failed + 1
                if not self._ready.done():
                    self._ready.set_exception(error)
                    self._stop(error)
                elif num_failed >= MAX_FAILED_STARTS:
                    self._stop(error)
                elif not self._has_stopped():
                    logger.error("%s It is started again.", error)
                self._end_retired(self._stopped or _as_engine_error(error))
        except BaseException as error:
            logger.exception("the client of the engine's process failed")
            self._stop(EngineDeadError(f"The engine's client failed ({type(error).__name__})."))
        self._finish()

    def _serve_one_process(self) -> SensoriumError:
        """Starts a process and listens to it to its end; returns why it ended.

        Its unanswered calls stay in a retired connection; later calls wait for the next process.
        """
        self._forget_last_process()
        try:
            self._process = process = EngineProcess()
        except EngineDeadError as error:
            self._retire_connection()
            return error
        try:
            grace_s = self._converse(process)
        except BaseException:
            process.end(0.0)
            raise
        finally:
            self._retire_connection()
            self._process = None
        ending = process.end(grace_s)
        if self._last_words is not None:
            return self._last_words
        what = "died" if self._is_ready else "died while starting"
        return EngineDeadError(f"The engine's process {what} ({ending}).")

    def _forget_last_process(self) -> None:
        self._is_ready = False
        self._last_words = None

    def _converse(self, process: EngineProcess) -> float:
        """Listens until the other end closes; returns how long the process may go on."""
        poller = select.poll()
        poller.register(self._waker.descriptor, select.POLLIN)
        was_told = False
        deadline_s: float | None = None
        try:
            while True:
                if not was_told and self._setup is not None:
                    level = logging.getLogger("sensorium").getEffectiveLevel()
                    process.channel.send(messages.encode_setup(level, self._setup))
                    was_told = True
                rest = self._connection.outbox.flush()
                poller.register(process.socket, select.POLLIN | (select.POLLOUT if rest else 0))
                poller.poll(_left_ms(deadline_s))
                self._waker.clear()
                frames = process.channel.receive(wait=False)
                if frames is None:
                    return CLOSE_S
                for frame in frames:
                    self._take(process, messages.decode(frame.payload))
                if self._has_stopped() and deadline_s is None:
                    if not self._is_ready:
                        return 0.0
                    self._connection.outbox.send(messages.encode("close"))
                    deadline_s = time.monotonic() + CLOSE_S
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    return 0.0
        except (ChannelError, MessageError) as error:
            logger.error("the engine's process can't be understood: %s", error)
            return 0.0

    def _take(self, process: EngineProcess, message: messages.Message) -> None:
        kind, *rest = message
        if kind == "updates":
            updates = messages.updates_of(*rest)
            self._connection.forget(u.request_id for u in updates if u.finish_reason is not None)
            if self._on_updates is not None:
                self._on_updates(updates)
        elif kind == "released":
            self._connection.segments.release(*rest)
        elif kind == "result":
            self._connection.resolve(*rest)
        elif kind == "log":
            _log(*rest)
        elif kind == "ready":
            self._is_ready = True
            self._connection.outbox.attach(process.socket)
            if self._ready.done():
                self._num_restarts += 1
            else:
                self._ready.set_result(*rest)
        elif kind == "failed":
            error = messages.unpack_error(*rest)
            assert isinstance(error, SensoriumError)
            self._last_words = error
        elif kind == "died":
            self._last_words = EngineDeadError(*rest)
        else:
            raise MessageError(f"there is no message {kind!r}")

    def _retire_connection(self) -> None:
        self._retired = self._connection
        self._connection = Connection(self._waker.wake, self._packer)

    def _end_retired(self, error: EngineError) -> None:
        """Ends what waits for a process that has died."""
        lost = self._retired.fail(error)
        if lost and self._on_stopped is not None:
            self._on_stopped(error, lost)

    def _stop(self, error: SensoriumError) -> None:
        with self._lock:
            if self._stopped is None:
                self._stopped = _as_engine_error(error)

    def _finish(self) -> None:
        assert self._stopped is not None
        for connection in (self._retired, self._connection):
            connection.fail(self._stopped)
        if self._on_stopped is not None:
            self._on_stopped(self._stopped, None)
        self._packer.shutdown(wait=True)
        self._waker.close()


def _as_engine_error(error: SensoriumError) -> EngineError:
    """The error that requests get: an engine that can't start again isn't their fault."""
    return error if isinstance(error, EngineError) else EngineDeadError(str(error))


def _left_ms(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(0.0, 1e3 * (deadline_s - time.monotonic()))


class _Waker:
    """Interrupts the client's thread where it polls."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._is_closed = False

    def wake(self) -> None:
        """From any thread."""
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """Lets the next poll wait again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        """Closes the descriptor; later wake-ups do nothing."""
        with self._lock:
            self._is_closed = True
            os.close(self.descriptor)


def _log(name: str, level: int, text: str, trace: str | None, created_s: float) -> None:
    """A record of the engine's process, as if it had been made here."""
    target = logging.getLogger(name)
    if not target.isEnabledFor(level):
        return
    record = logging.LogRecord(name, level, "(the engine's process)", 0, text, None, None)
    record.exc_text, record.created = trace, created_s
    target.handle(record)
