"""``AsyncEngine``: one engine for an asyncio application, an async iterator per request.

    prompt ─ Frontend ─ PreparedPrompt ─ admission ─ EngineRequests ─→ EngineClient
    RequestOutput ←─ RequestState ←─ queue of the request's own loop ←─ RequestUpdates

``LLM`` is a synchronous face over this same object: there is no second path.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any

from sensorium.config import EngineConfig
from sensorium.engine.admission import Admission
from sensorium.engine.assembly import Assembly, assemble
from sensorium.engine.client import EngineClient
from sensorium.errors import CacheMissError, EngineError, RequestError
from sensorium.frontend.chat import Conversation
from sensorium.frontend.frontend import PreparedPrompt
from sensorium.frontend.prompts import PromptInput, parse_prompt
from sensorium.logger import apply_log_level
from sensorium.output import RequestState
from sensorium.outputs import RequestMetrics, RequestOutput
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import RequestUpdate

logger = logging.getLogger("sensorium.engine")

_Event = RequestUpdate | EngineError
_Prepare = Callable[[], Any]


class _Stream:
    """The way from the engine's thread to the event loop that waits for one request."""

    __slots__ = ("events", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[_Event] = asyncio.Queue()

    def put(self, event: _Event) -> None:
        """From any thread; a loop that is gone has nobody waiting."""
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:
            logger.debug("an update arrived for a request whose event loop is closed")

    async def get(self) -> list[_Event]:
        """Waits for news and takes all there is."""
        events = [await self.events.get()]
        while not self.events.empty():
            events.append(self.events.get_nowait())
        return events


class AsyncEngine:
    """Loads a model and serves requests until ``close()``.

    Takes the options of ``EngineConfig``, by keyword; ``model`` may come first. It may be
    used from several event loops and threads at once.

    Raises:
        ConfigError: an option or a checkpoint that can't work.
        PluginError: the model needs a plugin that is missing or broken.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        apply_log_level()
        self.config = EngineConfig.from_options(model=model, **options)
        self._parts: Assembly = assemble(self.config)
        self._client: EngineClient = self._parts.client
        self._admission: Admission = self._parts.admission
        self._ids = itertools.count()
        self._streams: dict[str, _Stream] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._client.start(self._deliver, self._end_all)

    # --- requests ---------------------------------------------------------------------

    def generate(
        self,
        prompt: PromptInput,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        only_final: bool = False,
    ) -> AsyncIterator[RequestOutput]:
        """Answers one prompt.

        Yields cumulative outputs as tokens come; the last one is finished, and is the only one
        with ``only_final``. Leaving the iterator early (break and ``aclose``, or cancellation)
        aborts the request.

        Raises (on iteration):
            RequestError: the prompt, its media or the parameters can't be served.
            CacheMissError: an item given by uuid alone that no cache holds (any more).
            EngineError: the engine failed or was closed.
        """
        return self._answer(
            lambda: self._parts.frontend.prepare(parse_prompt(prompt)),
            sampling_params,
            request_id,
            only_final,
        )

    def chat(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        only_final: bool = False,
        **chat_options: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answers a conversation; ``chat_options`` are those of ``Frontend.prepare_chat``."""
        return self._answer(
            lambda: self._parts.frontend.prepare_chat(messages, **chat_options),
            sampling_params,
            request_id,
            only_final,
        )

    async def _answer(
        self,
        prepare: _Prepare,
        sampling: SamplingParams | None,
        request_id: str | None,
        only_final: bool,
    ) -> AsyncIterator[RequestOutput]:
        arrival_s = time.monotonic()
        request_id = request_id or f"request-{next(self._ids)}"
        prepared: PreparedPrompt = await prepare()
        requests = self._admission.requests(request_id, prepared, sampling, arrival_s)
        state = self._admission.state(request_id, prepared, requests, _metrics(prepared, arrival_s))
        stream = self._open(state.child_ids)
        try:
            await asyncio.gather(
                *(asyncio.wrap_future(self._client.add(request)) for request in requests)
            )
            while not state.finished:
                for event in await stream.get():
                    self._apply(state, event)
                if state.finished or not only_final:
                    yield state.output()
        finally:
            self._drop(state)

    def _apply(self, state: RequestState, event: _Event) -> None:
        if isinstance(event, EngineError):
            raise event
        if event.lost_item:
            raise CacheMissError(event.error or "An item has left the caches.", retryable=True)
        if event.finish_reason == "error":
            raise EngineError(event.error or "The engine failed this request.")
        stopped_by_string = state.apply(event)
        if stopped_by_string:
            self._client.abort(stopped_by_string)

    # --- streams ----------------------------------------------------------------------

    def _open(self, ids: Sequence[str]) -> _Stream:
        stream = _Stream()
        with self._lock:
            taken = [child for child in ids if child in self._streams]
            if taken:
                raise RequestError(f"A request with the id {taken[0]} is running already.")
            self._streams.update(dict.fromkeys(ids, stream))
        return stream

    def _drop(self, state: RequestState) -> None:
        with self._lock:
            for child in state.child_ids:
                self._streams.pop(child, None)
        if not state.finished:
            self._client.abort(state.child_ids)

    def _deliver(self, updates: Sequence[RequestUpdate]) -> None:
        for update in updates:
            stream = self._streams.get(update.request_id)
            if stream is not None:
                stream.put(update)

    def _end_all(self, error: EngineError) -> None:
        with self._lock:
            streams = set(self._streams.values())
        for stream in streams:
            stream.put(error)

    # --- the engine -------------------------------------------------------------------

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer in use."""
        return self._parts.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request without parameters gets, from the checkpoint's generation config."""
        return self._admission.default_sampling

    async def reset_mm_cache(self) -> None:
        """Forgets processed media and embeddings."""
        self._parts.frontend.pipeline.reset()
        await asyncio.wrap_future(self._client.reset_encoder_cache())

    async def reset_prefix_cache(self) -> bool:
        """Forgets cached pages; False if running requests still use some."""
        return await asyncio.wrap_future(self._client.reset_prefix_cache())

    async def check_integrity(self) -> None:
        """For tests: fails with AssertionError if pages or cache references are unaccounted for."""
        await asyncio.wrap_future(self._client.check_integrity())

    def close(self) -> None:
        """Ends running requests with ``EngineClosedError`` and gives everything back."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._client.close()
        self._parts.frontend.close()

    def __enter__(self) -> AsyncEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


def _metrics(prepared: PreparedPrompt, arrival_s: float) -> RequestMetrics:
    return RequestMetrics(
        arrival_s=arrival_s,
        prepared_s=time.monotonic(),
        num_media_items=len(prepared.items),
        num_processor_hits=prepared.num_hits,
        num_prompt_tokens=len(prepared.composition.token_ids),
    )


async def last_output(outputs: AsyncIterator[RequestOutput]) -> RequestOutput:
    """The finished output of one request."""
    last: RequestOutput | None = None
    async with aclosing(outputs) as stream:  # type: ignore[type-var]
        async for output in stream:
            last = output
    assert last is not None
    assert last.finished
    return last
