"""``AsyncEngine``: one engine for an asyncio application, an async iterator per request.

    prompt ─ Frontend ─ PreparedPrompt ─ admission ─ EngineRequests ─→ EngineClient
    RequestOutput ←─ RequestState ←─ Streams, on the request's own loop ←─ RequestUpdates

``LLM`` is a synchronous face over this same object: there is no second path.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from sensorium.config import EngineConfig
from sensorium.engine.admission import Admission, Admitted
from sensorium.engine.assembly import Assembly, assemble
from sensorium.engine.build import EngineInfo
from sensorium.engine.client import EngineClient
from sensorium.engine.owner import Owner
from sensorium.engine.places import Places
from sensorium.engine.preparing import AbortedError, Preparations
from sensorium.engine.streams import Stream, Streams
from sensorium.errors import EngineClosedError, EngineDeadError, RequestError
from sensorium.frontend.chat import Conversation
from sensorium.frontend.frontend import PreparedPrompt
from sensorium.frontend.prompts import PromptInput, parse_prompt
from sensorium.logger import apply_log_level
from sensorium.output.pooled_state import aborted
from sensorium.outputs import (
    CompletionOutput,
    EmbeddingRequestOutput,
    PoolingRequestOutput,
    RequestMetrics,
    RequestOutput,
)
from sensorium.plugins.kind import MediaKind
from sensorium.pooling_params import PoolingParams
from sensorium.sampling_params import SamplingParams
from sensorium.stats import CoreStats, EngineStats, engine_stats
from sensorium.tokenizer import Tokenizer
from sensorium.types import EngineRequest

T = TypeVar("T")
logger = logging.getLogger("sensorium.engine")


@dataclass(frozen=True, slots=True)
class _Work:
    """What one request asks for.

    Attributes:
        task: the task for which the engine must have been loaded.
        prepare: makes the prompt ready.
        admit: the caller's name for it and the engine's, the prompt, what is known so far → the
            request.
        aborted: what an abort during the preparation gives: an output, or an error.
        encodes_words: whether ``admit`` has words to encode, too many to do it on the event loop.
    """

    task: str
    prepare: Callable[[], Awaitable[PreparedPrompt]]
    admit: Callable[[str, str, PreparedPrompt, RequestMetrics], Admitted]
    aborted: Callable[[str], Any]
    encodes_words: bool = False


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
        self._streams = Streams()
        self._preparations = Preparations()
        self._last_stats = CoreStats()
        self._places = Places(self.config.max_num_seqs, self.config.max_queued_requests)
        self._owner = Owner(self, partial(_close, self._preparations, self._parts))
        self._client.start(self._streams.deliver, self._streams.end)

    # --- requests ---------------------------------------------------------------------

    def generate(
        self,
        prompt: PromptInput,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> AsyncIterator[RequestOutput]:
        """Answers one prompt.

        Yields outputs as tokens come, cumulative unless ``SamplingParams.output_kind`` says else;
        the last one is finished. Leaving the iterator
        early (break and ``aclose``, or cancellation) aborts the request. Requests of lower
        ``priority`` go first.

        Raises (on iteration):
            RequestError: the prompt, its media or the parameters can't be served.
            CacheMissError: an item given by uuid alone that no cache holds (any more).
            EngineError: the engine failed or was closed.
        """
        return self._generate(
            lambda: self._parts.frontend.prepare(parse_prompt(prompt)),
            sampling_params,
            request_id,
            priority=priority,
        )

    def chat(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        **chat_options: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answers a conversation; ``chat_options`` are those of ``Frontend.prepare_chat``."""
        return self._generate(
            lambda: self._parts.frontend.prepare_chat(messages, **chat_options),
            sampling_params,
            request_id,
            priority=priority,
        )

    def _generate(
        self,
        prepare: Callable[[], Awaitable[PreparedPrompt]],
        sampling: SamplingParams | None,
        request_id: str | None,
        *,
        priority: int,
    ) -> AsyncIterator[RequestOutput]:
        if sampling is not None:
            check_sampling_params(sampling)
        work = _Work(
            task="generate",
            prepare=prepare,
            admit=partial(self._admission.generation, sampling=sampling, priority=priority),
            aborted=partial(_aborted_output, sampling=sampling),
            encodes_words=sampling is not None and bool(sampling.bad_words),
        )
        return self._answer(work, request_id)

    async def encode(
        self,
        prompt: PromptInput,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> PoolingRequestOutput:
        """One prompt as one vector, as it is unless ``pooling_params`` ask for length 1.

        Raises:
            RequestError: the engine was loaded to generate, the request was aborted, or as
                ``generate``.
            EngineError: as ``generate``.
        """
        pooling = _filled(pooling_params, normalizes=False)
        return await self._pool(
            lambda: self._parts.frontend.prepare(parse_prompt(prompt)),
            pooling,
            request_id,
            priority=priority,
        )

    async def embed(
        self,
        prompt: PromptInput,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> EmbeddingRequestOutput:
        """As ``encode``, of length 1 unless ``pooling_params`` or the model's family say not."""
        pooling = _filled(pooling_params, normalizes=self._parts.normalizes_embeddings)
        found = await self.encode(prompt, pooling, request_id, priority=priority)
        return EmbeddingRequestOutput.of(found)

    async def embed_chat(
        self,
        messages: Conversation,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        **chat_options: Any,
    ) -> EmbeddingRequestOutput:
        """As ``embed``, a conversation; ``chat_options`` are those of ``Frontend.prepare_chat``."""
        pooling = _filled(pooling_params, normalizes=self._parts.normalizes_embeddings)
        found = await self._pool(
            lambda: self._parts.frontend.prepare_chat(messages, **chat_options),
            pooling,
            request_id,
            priority=priority,
        )
        return EmbeddingRequestOutput.of(found)

    async def chat_token_ids(self, messages: Conversation, **chat_options: Any) -> tuple[int, ...]:
        """A conversation's token ids as the model would see them, its media in place."""
        self._owner.check_process()
        with self._places, self._preparations.begin(f"tokens {next(self._ids)}"):
            prepared = await self._parts.frontend.prepare_chat(messages, **chat_options)
        prepared.release()
        return prepared.composition.token_ids

    async def _pool(
        self,
        prepare: Callable[[], Awaitable[PreparedPrompt]],
        pooling: PoolingParams,
        request_id: str | None,
        *,
        priority: int,
    ) -> PoolingRequestOutput:
        work = _Work(
            task="embed",
            prepare=prepare,
            admit=partial(self._admission.embedding, pooling=pooling, priority=priority),
            aborted=_raise_aborted,
        )
        return await last_output(self._answer(work, request_id))

    async def _answer(self, work: _Work, request_id: str | None) -> AsyncIterator[Any]:
        """The outputs of a request, from its preparation to its end."""
        self._check(work)
        arrival_s = time.monotonic()
        # The caller may reuse a name as soon as its request has ended here. The engine may still
        # send updates of that request, which must not be taken for updates of the next.
        serial = next(self._ids)
        engine_id = f"{request_id}~{serial}" if request_id else f"request-{serial}"
        request_id = request_id or engine_id
        prepared: PreparedPrompt | None = None
        stream: Stream | None = None
        with self._places:
            try:
                with self._preparations.begin(request_id):
                    prepared = await work.prepare()
                    metrics = _metrics(prepared, arrival_s)
                    admit = partial(work.admit, request_id, engine_id, prepared, metrics)
                    if work.encodes_words:
                        admitted = await self._parts.frontend.in_text_pool(admit)
                    else:
                        admitted = admit()
                    await self._compile(admitted.requests[0])
                    stream = self._streams.open(admitted.state, self._client.abort)
                await self._hand_over(admitted.requests, stream)
                finished = False
                while not finished:
                    await stream.news()
                    output = stream.state.output()
                    finished = output.finished
                    yield output
            except AbortedError:
                yield work.aborted(request_id)
            finally:
                if stream is not None:
                    self._streams.close(stream)
                    if not stream.state.finished:
                        self._client.abort(stream.state.child_ids)
                if prepared is not None:
                    prepared.release()

    def _check(self, work: _Work) -> None:
        self._owner.check_process()
        loaded = self._parts.task
        if loaded != work.task:
            raise RequestError(
                f"This engine was loaded to {loaded}; "
                f'pass task="{work.task}" to load one to {work.task}.'
            )

    async def _compile(self, request: EngineRequest) -> None:
        """Waits until the engine has the request's grammar, if it has one."""
        form = request.sampling.structured_outputs
        if form is not None:
            await asyncio.wrap_future(self._client.compile(form, request.eos_ids))

    async def _hand_over(self, requests: list[EngineRequest], stream: Stream) -> None:
        """Waits until the engine has taken the request's sequences."""
        await asyncio.gather(*(asyncio.wrap_future(self._client.add(r)) for r in requests))
        if stream.was_aborted:  # before the engine knew of it
            self._client.abort(stream.state.child_ids)

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Ends requests by the ids that their callers gave them; unknown ones are ignored.

        The reader of a request's outputs gets a last one whose answers' ``finish_reason`` is
        "abort"; a request to embed ends with ``RequestError``.
        """
        self._owner.check_process()
        names = {request_id} if isinstance(request_id, str) else set(request_id)
        self._preparations.abort(names)
        self._client.abort(self._streams.abort(names))

    # --- the engine -------------------------------------------------------------------

    @property
    def is_healthy(self) -> bool:
        """Whether requests are served now.

        False once the engine is closed or has died, and while a process that died is started
        again; requests that come then wait for it.
        """
        return self._client.is_healthy

    @property
    def num_unfinished_requests(self) -> int:
        """Requests that are being prepared, wait or run."""
        return self._places.num_taken

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer in use."""
        return self._parts.tokenizer

    @property
    def task(self) -> str:
        """What it was loaded to do: "generate" or "embed"."""
        return self._parts.task

    @property
    def info(self) -> EngineInfo:
        """Where it runs, and how much it holds."""
        return self._parts.info

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of media that the model takes."""
        return tuple(self._parts.kinds)

    @property
    def media_kinds(self) -> Mapping[str, MediaKind]:
        """The same by name, for the chat parts that bring their items and their files' types."""
        return self._parts.kinds

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request without parameters gets, from the checkpoint's generation config."""
        return self._admission.default_sampling

    @property
    def max_new_tokens(self) -> int | None:
        """What the checkpoint's generation config says of an answer's length, if it does."""
        return self._admission.max_new_tokens

    async def reset_mm_cache(self) -> None:
        """Forgets processed media and embeddings."""
        self._owner.check_process()
        self._parts.frontend.pipeline.reset()
        await asyncio.wrap_future(self._client.reset_encoder_cache())

    async def reset_prefix_cache(self) -> bool:
        """Forgets cached pages; False if running requests still use some."""
        self._owner.check_process()
        return await asyncio.wrap_future(self._client.reset_prefix_cache())

    async def stats(self) -> EngineStats:
        """What the engine has counted and measured, taken between two steps.

        While no engine runs, the engine's part is its last snapshot.

        Raises:
            EngineClosedError: the engine is closed.
        """
        self._owner.check_process()
        if self._owner.closed:
            raise EngineClosedError("The engine was closed.")
        if self._client.is_healthy:
            try:
                self._last_stats = await asyncio.wrap_future(self._client.stats())
            except EngineDeadError:
                logger.debug("the engine died before it told what it has counted")
        pipeline = self._parts.frontend.pipeline
        return engine_stats(
            self._last_stats,
            is_healthy=self._client.is_healthy,
            num_restarts=self._client.num_restarts,
            num_unfinished_requests=self._places.num_taken,
            processor_cache=pipeline.stats,
            media=pipeline.recorder.snapshot(),
        )

    async def check_integrity(self) -> None:
        """For tests: fails with AssertionError if pages or cache references are unaccounted for."""
        self._owner.check_process()
        await asyncio.wrap_future(self._client.check_integrity())

    def close(self) -> None:
        """Ends all requests with ``EngineClosedError`` and gives everything back.

        An engine that is no longer referenced closes by itself. In a forked child nothing
        happens: the engine is the parent's.
        """
        self._owner.close()

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


def check_sampling_params(given: object) -> None:
    """Checks only the type; the values were checked when the parameters were made.

    Raises:
        RequestError: they are none.
    """
    if not isinstance(given, SamplingParams):
        raise RequestError(
            f"sampling_params is a {type(given).__name__}; it must be SamplingParams or None."
        )


def _filled(given: PoolingParams | None, *, normalizes: bool) -> PoolingParams:
    """The parameters with every field filled.

    Raises:
        RequestError: they are none.
    """
    params = PoolingParams() if given is None else given
    if not isinstance(params, PoolingParams):
        raise RequestError(
            f"pooling_params is a {type(params).__name__}; it must be PoolingParams or None."
        )
    return params if params.normalize is not None else replace(params, normalize=normalizes)


def _close(preparations: Preparations, parts: Assembly) -> None:
    preparations.close()
    parts.client.close()
    parts.frontend.close()


def _aborted_output(request_id: str, *, sampling: SamplingParams | None) -> RequestOutput:
    num_answers = 1 if sampling is None else sampling.n
    answers = (CompletionOutput(i, "", (), finish_reason="abort") for i in range(num_answers))
    return RequestOutput(request_id, None, (), tuple(answers), finished=True)


def _raise_aborted(request_id: str) -> NoReturn:
    raise aborted(request_id)


def _metrics(prepared: PreparedPrompt, arrival_s: float) -> RequestMetrics:
    media_tokens: Counter[str] = Counter()
    for span in prepared.composition.spans:
        first, end = span.item_slice
        media_tokens[prepared.items[span.item].kind] += end - first
    return RequestMetrics(
        arrival_s=arrival_s,
        prepared_s=time.monotonic(),
        media_stages=prepared.media.stages,
        num_media_items=len(prepared.items),
        num_media_tokens=dict(media_tokens),
        num_processor_hits=prepared.num_hits,
        num_prompt_tokens=len(prepared.composition.token_ids),
    )


async def last_output(outputs: AsyncIterator[T]) -> T:
    """The finished output of one request."""
    last: Any = None
    async with aclosing(outputs) as stream:  # type: ignore[type-var]
        async for output in stream:
            last = output
    assert last is not None
    assert last.finished
    return last  # type: ignore[no-any-return]
