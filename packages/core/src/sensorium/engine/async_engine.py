"""``AsyncEngine``: one engine for an asyncio application, an async iterator per request.

    prompt ─ Frontend ─ PreparedPrompt ─ admission ─ EngineRequests ─→ EngineClient
    RequestOutput ←─ RequestState ←─ Streams, on the request's own loop ←─ RequestUpdates

``LLM`` is a synchronous face over this same object: there is no second path.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from sensorium.config import EngineConfig
from sensorium.engine.admission import Admission, Admitted
from sensorium.engine.assembly import Assembly, assemble
from sensorium.engine.build import EngineInfo
from sensorium.engine.client import EngineClient
from sensorium.engine.owner import Owner
from sensorium.engine.preparing import Preparations
from sensorium.engine.streams import Streams
from sensorium.errors import RequestError
from sensorium.frontend.chat import Conversation
from sensorium.frontend.frontend import PreparedPrompt
from sensorium.frontend.prompts import PromptInput, parse_prompt
from sensorium.logger import apply_log_level
from sensorium.outputs import (
    EmbeddingRequestOutput,
    PoolingRequestOutput,
    RequestMetrics,
    RequestOutput,
)
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer

T = TypeVar("T")
_Prepare = Callable[[], Any]
#: The caller's name and the engine's, the prompt, what is known of it so far → the request.
_Admit = Callable[[str, str, PreparedPrompt, RequestMetrics], Admitted]


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
        only_final: bool = False,
    ) -> AsyncIterator[RequestOutput]:
        """Answers one prompt.

        Yields outputs as tokens come, cumulative unless ``SamplingParams.output_kind`` says else;
        the last one is finished, and is the only one with ``only_final``. Leaving the iterator
        early (break and ``aclose``, or cancellation) aborts the request. Requests of lower
        ``priority`` go first.

        Raises (on iteration):
            RequestError: the prompt, its media or the parameters can't be served.
            CacheMissError: an item given by uuid alone that no cache holds (any more).
            EngineError: the engine failed or was closed.
        """
        return self._answer(
            lambda: self._parts.frontend.prepare(parse_prompt(prompt)),
            partial(self._admission.generation, sampling=sampling_params, priority=priority),
            request_id,
            task="generate",
            only_final=only_final,
        )

    def chat(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        only_final: bool = False,
        **chat_options: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answers a conversation; ``chat_options`` are those of ``Frontend.prepare_chat``."""
        return self._answer(
            lambda: self._parts.frontend.prepare_chat(messages, **chat_options),
            partial(self._admission.generation, sampling=sampling_params, priority=priority),
            request_id,
            task="generate",
            only_final=only_final,
        )

    async def encode(
        self, prompt: PromptInput, request_id: str | None = None, *, priority: int = 0
    ) -> PoolingRequestOutput:
        """One prompt as its last token's hidden state.

        Raises:
            RequestError: the engine was loaded to generate, or as ``generate``.
            EngineError: as ``generate``.
        """
        outputs = self._answer(
            lambda: self._parts.frontend.prepare(parse_prompt(prompt)),
            partial(self._admission.embedding, priority=priority),
            request_id,
            task="embed",
            only_final=True,
        )
        return await last_output(outputs)

    async def embed(
        self, prompt: PromptInput, request_id: str | None = None, *, priority: int = 0
    ) -> EmbeddingRequestOutput:
        """As ``encode``, as a vector of length 1."""
        return EmbeddingRequestOutput.of(await self.encode(prompt, request_id, priority=priority))

    async def embed_chat(
        self,
        messages: Conversation,
        request_id: str | None = None,
        *,
        priority: int = 0,
        **chat_options: Any,
    ) -> EmbeddingRequestOutput:
        """As ``embed``, a conversation; ``chat_options`` are those of ``Frontend.prepare_chat``."""
        outputs = self._answer(
            lambda: self._parts.frontend.prepare_chat(messages, **chat_options),
            partial(self._admission.embedding, priority=priority),
            request_id,
            task="embed",
            only_final=True,
        )
        return EmbeddingRequestOutput.of(await last_output(outputs))

    async def chat_token_ids(self, messages: Conversation, **chat_options: Any) -> tuple[int, ...]:
        """A conversation's token ids as the model would see them, its media in place."""
        prepared = await self._parts.frontend.prepare_chat(messages, **chat_options)
        return prepared.composition.token_ids

    async def _answer(
        self,
        prepare: _Prepare,
        admit: _Admit,
        request_id: str | None,
        *,
        task: str,
        only_final: bool,
    ) -> AsyncIterator[Any]:
        self._owner.check_process()
        loaded = self._parts.task
        if loaded != task:
            raise RequestError(
                f'This engine was loaded to {loaded}; pass task="{task}" to load one to {task}.'
            )
        arrival_s = time.monotonic()
        # A name may be used again as soon as its request has ended here; what the engine still has
        # to say of that one must not be taken for news of the next.
        serial = next(self._ids)
        engine_id = f"{request_id}~{serial}" if request_id else f"request-{serial}"
        request_id = request_id or engine_id
        with self._preparations.begin(request_id):
            prepared: PreparedPrompt = await prepare()
            admitted = admit(request_id, engine_id, prepared, _metrics(prepared, arrival_s))
        requests, state = admitted.requests, admitted.state
        only_final = only_final or state.only_final
        stream = self._streams.open(state, self._client.abort, only_final=only_final)
        try:
            await asyncio.gather(
                *(asyncio.wrap_future(self._client.add(request)) for request in requests)
            )
            finished = False
            while not finished:
                await stream.news()
                output = state.output()
                finished = output.finished
                yield output
        finally:
            self._streams.close(stream)
            if not state.finished:
                self._client.abort(state.child_ids)

    # --- the engine -------------------------------------------------------------------

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
        return self._parts.kinds

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request without parameters gets, from the checkpoint's generation config."""
        return self._admission.default_sampling

    async def reset_mm_cache(self) -> None:
        """Forgets processed media and embeddings."""
        self._owner.check_process()
        self._parts.frontend.pipeline.reset()
        await asyncio.wrap_future(self._client.reset_encoder_cache())

    async def reset_prefix_cache(self) -> bool:
        """Forgets cached pages; False if running requests still use some."""
        self._owner.check_process()
        return await asyncio.wrap_future(self._client.reset_prefix_cache())

    async def check_integrity(self) -> None:
        """For tests: fails with AssertionError if pages or cache references are unaccounted for."""
        self._owner.check_process()
        await asyncio.wrap_future(self._client.check_integrity())

    def close(self) -> None:
        """Ends all requests with ``EngineClosedError`` and gives everything back.

        An engine that nobody refers to any more closes by itself. In a forked child nothing
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


def _close(preparations: Preparations, parts: Assembly) -> None:
    preparations.close()
    parts.client.close()
    parts.frontend.close()


def _metrics(prepared: PreparedPrompt, arrival_s: float) -> RequestMetrics:
    return RequestMetrics(
        arrival_s=arrival_s,
        prepared_s=time.monotonic(),
        num_media_items=len(prepared.items),
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
