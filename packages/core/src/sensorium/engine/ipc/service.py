"""``Service``: the engine's side of the socket.

    frames ─→ calls between two steps ─→ EngineLoop ─→ updates, results, released segments

One thread does everything: between two steps it reads the frames that have come, and waits for
frames when there is nothing to run.
"""

from __future__ import annotations

import gc
import logging
import queue
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from sensorium.engine.build import EngineInfo, build_engine
from sensorium.engine.client import death_sentence
from sensorium.engine.core import EngineCore
from sensorium.engine.ipc import messages
from sensorium.engine.ipc.channel import Channel, ChannelClosedError, ChannelError, Frame
from sensorium.engine.ipc.messages import Message, MessageError, Placement
from sensorium.engine.ipc.segments import SegmentTable
from sensorium.engine.ipc.setup import Setup, check_plugins
from sensorium.engine.loop import Call, EngineLoop
from sensorium.engine.model import open_model
from sensorium.errors import SensoriumError
from sensorium.plugins.discovery import discover
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import EngineRequest, RequestUpdate

logger = logging.getLogger("sensorium.engine")

#: Steps from a request's last update until its features are no longer read: the runner learns of
#: the end in the next step, while the step before may still be copying them to the device.
STEPS_TO_RELEASE = 4


def serve(channel: Channel, frames: Sequence[Frame]) -> int:
    """Builds the engine and runs it until the other end closes or says so.

    Args:
        frames: the frames that have come after the first message.

    Returns:
        The process's exit status.
    """
    inbox = SocketInbox(channel, frames)
    setup = inbox.first()
    if setup is None:
        return 0
    handler = _ChannelHandler(channel)
    ours = logging.getLogger("sensorium")
    ours.addHandler(handler)
    ours.propagate = False
    try:
        core, info = _build(setup, ours)
    except Exception as error:
        if not isinstance(error, SensoriumError):
            logger.exception("the engine can't start")
        channel.send(messages.encode("failed", *messages.pack_error(error)))
        return 2
    try:
        channel.send(messages.encode("ready", info))
        inbox.serve(core, pin=info.device.startswith("cuda"))
        return 0
    except ChannelClosedError:
        return 0
    except (MessageError, ChannelError) as error:
        logger.error("the engine's process ends: %s", error)
        return 2
    except BaseException as error:
        logger.exception("the engine died")
        channel.send(messages.encode("died", death_sentence(error)))
        return 1
    finally:
        ours.removeHandler(handler)
        core.close()


def _build(payload: bytes, ours: logging.Logger) -> tuple[EngineCore, EngineInfo]:
    kind, level, setup = messages.decode(payload)
    if kind != "setup" or not isinstance(setup, Setup):
        raise MessageError(f"{kind!r} came where setup was due")
    ours.setLevel(level)
    registry = discover(choices=setup.config.plugin_choices, disabled=setup.config.disabled_plugins)
    check_plugins(setup.plugins, registry)
    built = build_engine(setup.config, open_model(setup.config, registry), reads_vocabulary=True)
    # What is there now stays, and the collector need not look through it between steps.
    gc.collect()
    gc.freeze()
    return built


class SocketInbox:
    """Calls from the socket, and what becomes of them."""

    def __init__(self, channel: Channel, frames: Sequence[Frame]) -> None:
        self._channel = channel
        self._frames = deque(frames)

    def first(self) -> bytes | None:
        """The first message's payload; None: the other end is closed."""
        while not self._frames:
            if not self._receive(wait=True):
                return None
        return self._frames.popleft().payload

    def serve(self, core: EngineCore, *, pin: bool) -> None:
        """Runs the engine.

        Raises:
            MessageError, ChannelError: the bytes that came are not a message.
            Exception: the engine died.
        """
        self._core = core
        self._segments = SegmentTable(pin=pin)
        self._leases = Leases()
        self._loop = EngineLoop(core, self, self._report)
        self._loop.run()

    def get(self, block: bool = True) -> Call | None:
        """As ``Inbox``: one call, or None when the other end is closed or asks for the end."""
        while True:
            while not self._frames:
                if block:
                    self._release(self._leases.idle())
                if not self._receive(wait=block):
                    return None
                if not self._frames and not block:
                    self._release(self._leases.tick())
                    raise queue.Empty
            frame = self._frames.popleft()
            message = messages.decode(frame.payload)
            if message[0] == "close":
                return None
            call = self._call(message, frame.descriptors)
            if call is not None:
                return call

    def _receive(self, *, wait: bool) -> bool:
        frames = self._channel.receive(wait=wait)
        if frames is None:
            return False
        self._frames.extend(frames)
        return True

    def _call(self, message: Message, descriptors: tuple[int, ...]) -> Call | None:
        """What a message asks the loop to do; None: it is done."""
        kind, *rest = message
        try:
            if kind == "segment":
                self._segments.open(*rest, *descriptors)
            elif kind == "drop":
                self._segments.drop(*rest)
            elif kind == "compile":
                self._compile(*rest)
            elif kind == "add":
                return self._replying(rest[0], partial(self._add, *rest[1:]))
            elif kind == "abort":
                return Call(partial(self._abort, *rest))
            elif kind == "call":
                # The check only reads; a failed check is a result, not a fault of the loop.
                expected = Exception if rest[1] == "check_integrity" else SensoriumError
                return self._replying(rest[0], self._method(rest[1]), expected)
            else:
                raise MessageError(f"there is no message {kind!r}")
        except (TypeError, IndexError, SensoriumError) as error:
            raise MessageError(f"a message {kind!r} makes no sense ({error})") from error
        return None

    def _method(self, name: str) -> Callable[[], Any]:
        scheduler = self._core.scheduler
        methods: dict[str, Callable[[], Any]] = {
            "reset_prefix_cache": scheduler.reset_prefix_cache,
            "reset_encoder_cache": scheduler.reset_encoder_cache,
            "check_integrity": scheduler.check_integrity,
            "stats": self._loop.stats,
        }
        if name not in methods:
            raise MessageError(f"there is no call {name!r}")
        return methods[name]

    def _compile(self, call_id: int, form: StructuredOutputs, eos_ids: frozenset[int]) -> None:
        """Has a grammar compiled in another thread, which sends the answer itself."""

        def reply(result: Future[None]) -> None:
            with suppress(ChannelClosedError):
                self._reply(call_id, result)

        self._core.compile(form, eos_ids).add_done_callback(reply)

    def _add(self, bare: EngineRequest, tokens: bytes, places: Sequence[Placement | None]) -> None:
        segments = [p.segment for p in places if p is not None and p.segment is not None]
        try:
            self._core.add(messages.request_of(bare, tokens, places, self._segments.features))
        except BaseException:
            self._release(segments)
            raise
        self._leases.hold(bare.request_id, segments)

    def _abort(self, request_ids: Sequence[str]) -> None:
        self._loop.report(self._core.abort(request_ids))

    def _replying(
        self,
        call_id: int,
        function: Callable[[], Any],
        expected: type[Exception] = SensoriumError,
    ) -> Call:
        call = Call(function, expected)
        call.result.add_done_callback(partial(self._reply, call_id))
        return call

    def _reply(self, call_id: int, result: Future[Any]) -> None:
        error = result.exception()
        packed = None if error is None else messages.pack_error(error)
        if error is not None and not isinstance(error, (SensoriumError, AssertionError)):
            logger.error("a call failed", exc_info=error)
        value = result.result() if error is None else None
        self._channel.send(messages.encode("result", call_id, value, packed))

    def _report(self, updates: Sequence[RequestUpdate]) -> None:
        self._channel.send(messages.encode_updates(updates))
        self._leases.end([u.request_id for u in updates if u.finish_reason is not None])

    def _release(self, segments: Sequence[int]) -> None:
        if segments:
            self._channel.send(messages.encode("released", list(segments)))


class Leases:
    """Which request holds which segments, and when they are free after its end."""

    def __init__(self) -> None:
        self._held: dict[str, list[int]] = {}
        self._ended: deque[tuple[int, list[int]]] = deque()
        self._step = 0

    def hold(self, request_id: str, segments: list[int]) -> None:
        """A request was taken in."""
        if segments:
            self._held[request_id] = segments

    def end(self, request_ids: Sequence[str]) -> None:
        """Requests have had their last update."""
        for request_id in request_ids:
            segments = self._held.pop(request_id, None)
            if segments is not None:
                self._ended.append((self._step + STEPS_TO_RELEASE, segments))

    def tick(self) -> list[int]:
        """One step more; the segments that are free with it."""
        self._step += 1
        free = []
        while self._ended and self._ended[0][0] <= self._step:
            free += self._ended.popleft()[1]
        return free

    def idle(self) -> list[int]:
        """All remaining segments; called when nothing runs any more, on the device neither."""
        free = [number for _, segments in self._ended for number in segments]
        self._ended.clear()
        return free


class _ChannelHandler(logging.Handler):
    """Passes log records on to the parent's logger of the same name."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """As ``logging.Handler.emit``; ignores a parent that is gone."""
        try:
            trace = None
            if record.exc_info:
                trace = logging.Formatter().formatException(record.exc_info)
            payload = messages.encode(
                "log", record.name, record.levelno, record.getMessage(), trace, record.created
            )
        except Exception:
            self.handleError(record)
            return
        with suppress(ChannelError):
            self._channel.send(payload)
