"""``EnginePort``: everything that the server asks of the engine, in one place.

Knows ``AsyncEngine``; in this package only ``terminal.engine_backend`` does besides. What
it yields are core's own outputs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sensorium import PoolingParams, RequestError, RequestOutput, SamplingParams
from sensorium.outputs import EmbeddingRequestOutput, RequestOutputKind
from sensorium_server_openai.media_files import MediaFiles, files_of

if TYPE_CHECKING:
    from sensorium import AsyncEngine
    from sensorium.stats import EngineStats
    from sensorium.tokenizer import Tokenizer


#: Requests that may wait in a served engine, where the operator says nothing.
_MAX_QUEUED = 1024


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation and how it becomes a prompt.

    Attributes:
        options: keyword arguments of ``AsyncEngine.chat``.
    """

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlainPrompt:
    """Text or token ids."""

    content: str | Sequence[int]
    salt: str | None = None

    @property
    def for_engine(self) -> dict[str, Any]:
        """As ``AsyncEngine.generate`` takes it."""
        name = "prompt" if isinstance(self.content, str) else "prompt_token_ids"
        found: dict[str, Any] = {name: self.content}
        if self.salt:
            found["cache_salt"] = self.salt
        return found


Prompt = ChatPrompt | PlainPrompt


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What clients may know of the model.

    Attributes:
        name: as the operator gave it.
        task: "generate" or "embed".
        max_model_len: context in tokens; None: not known to the server.
        media: how files of each kind are sent in a chat.
    """

    name: str
    task: str
    max_model_len: int | None
    media: tuple[MediaFiles, ...] = ()


class Engine(Protocol):
    """What the routes need. ``EnginePort`` has it of an ``AsyncEngine``; tests bring their own."""

    facts: ModelFacts

    def answer(
        self, prompt: Prompt, sampling: SamplingParams, *, stream: bool, priority: int
    ) -> AsyncIterator[RequestOutput]:
        """The outputs of one request: what is new in each with ``stream``, else the whole, once.

        Without ``max_tokens`` an answer is as long as the checkpoint's generation config says, or
        else as the context holds.

        Leaving the iterator early (``aclose``, or cancellation) aborts the request.
        """
        ...

    async def embed(
        self, prompt: Prompt, pooling: PoolingParams, *, priority: int
    ) -> EmbeddingRequestOutput:
        """One prompt as a vector."""
        ...

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
        """The prompt's token ids; of a conversation with its media in place."""
        ...

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """For single tokens; whole texts go through ``tokenize`` and ``decode``."""
        ...

    async def stats(self) -> EngineStats | None:
        """The engine's figures, for ``/metrics``."""
        ...

    @property
    def is_healthy(self) -> bool:
        """Whether requests are answered."""
        ...

    def close(self) -> None:
        """Ends the engine."""
        ...


class EnginePort:
    """An ``AsyncEngine`` as the server sees it.

    Args:
        facts: as clients are told.
    """

    def __init__(self, engine: AsyncEngine, facts: ModelFacts) -> None:
        self.facts = facts
        self._engine = engine
        self._close = threading.Lock()

    @classmethod
    def of(cls, engine: AsyncEngine, model: str) -> EnginePort:
        """An engine that was loaded from ``model``, a folder or a hub name."""
        name = Path(model).name if Path(model).exists() else model
        media = files_of(engine.media_kinds)
        return cls(engine, ModelFacts(name, engine.task, engine.info.max_model_len, media))

    def describe(self) -> Iterator[tuple[str, str]]:
        """For the operator: (heading, text) of what runs where."""
        info = self._engine.info
        yield "model", f"{self.facts.name}, loaded to {self.facts.task}"
        yield "device", f"{info.device}, {info.dtype}"
        yield "attention", info.attention
        context = info.max_model_len
        yield "KV cache", f"{info.num_kv_tokens} tokens; a context holds {context}"
        yield "media", ", ".join(self._engine.kinds) or "none: text alone"

    def answer(
        self, prompt: Prompt, sampling: SamplingParams, *, stream: bool, priority: int
    ) -> AsyncIterator[RequestOutput]:
        """See ``Engine.answer``."""
        kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        sampling = replace(sampling, output_kind=kind)
        bound = self._engine.max_new_tokens
        if sampling.max_tokens is None and bound is not None:
            sampling = replace(sampling, max_tokens=max(bound, sampling.min_tokens))
        options: dict[str, Any] = {"priority": priority}
        if isinstance(prompt, ChatPrompt):
            return self._engine.chat(prompt.messages, sampling, **options, **prompt.options)
        return self._engine.generate(prompt.for_engine, sampling, **options)

    async def embed(
        self, prompt: Prompt, pooling: PoolingParams, *, priority: int
    ) -> EmbeddingRequestOutput:
        """See ``Engine.embed``."""
        if isinstance(prompt, PlainPrompt):
            return await self._engine.embed(prompt.for_engine, pooling, priority=priority)
        return await self._engine.embed_chat(
            prompt.messages, pooling, priority=priority, **prompt.options
        )

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
        """See ``Engine.tokenize``."""
        if isinstance(prompt, ChatPrompt):
            return list(await self._engine.chat_token_ids(prompt.messages, **prompt.options))
        assert isinstance(prompt.content, str)
        encode = self.tokenizer.encode
        return await asyncio.to_thread(
            encode, prompt.content, add_special_tokens=add_special_tokens
        )

    async def decode(self, token_ids: Sequence[int]) -> str:
        """See ``Engine.decode``."""
        return await asyncio.to_thread(decode_ids, self.tokenizer, token_ids)

    @property
    def tokenizer(self) -> Tokenizer:
        """See ``Engine.tokenizer``."""
        return self._engine.get_tokenizer()

    async def stats(self) -> EngineStats | None:
        """See ``Engine.stats``."""
        return await self._engine.stats()

    @property
    def is_healthy(self) -> bool:
        """See ``Engine.is_healthy``."""
        return self._engine.is_healthy

    def close(self) -> None:
        """See ``Engine.close``; more than once does nothing."""
        with self._close:
            self._engine.close()


def decode_ids(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The text of token ids.

    Raises:
        RequestError: an id that the tokenizer doesn't have.
    """
    for token_id in token_ids:
        if not 0 <= token_id < tokenizer.vocab_size:
            raise RequestError(
                f"There is no token {token_id}; allowed are 0 to {tokenizer.vocab_size - 1}."
            )
    return tokenizer.decode(token_ids)


def load_engine(model: str, options: dict[str, Any]) -> EnginePort:
    """Loads the model; the engine runs in a process of its own, also on the CPU.

    Raises:
        ConfigError, PluginError: as ``AsyncEngine``.
    """
    from sensorium import AsyncEngine

    options.setdefault("engine_process", True)
    options.setdefault("max_queued_requests", _MAX_QUEUED)
    return EnginePort.of(AsyncEngine(model, **options), model)
