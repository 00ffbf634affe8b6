"""An engine for the server that says what a test wrote, piece by piece, and can stand still."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from sensorium import PoolingParams, RequestOutput, SamplingParams
from sensorium.outputs import CompletionOutput, EmbeddingOutput, EmbeddingRequestOutput
from sensorium.tokenizer import Tokenizer
from sensorium_server_openai.engine_port import (
    ChatPrompt,
    ModelFacts,
    PlainPrompt,
    Prompt,
    decode_ids,
)
from sensorium_tiny_models import model_path

#: Of an answer that never comes to its end by itself.
ENDLESS = object()


@functools.cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.load(Path(model_path()))


class ScriptedEngine:
    """Answers every prompt with the same pieces of text, one output each.

    Args:
        pieces: what is said; with ``ENDLESS`` at the end, the last piece again and again.
        fails: raised in place of the output of this number.
        waits_before: outputs in front of which the engine waits until ``go_on`` is set.

    Attributes:
        asked: (prompt, sampling) of every request.
        running: requests that are being answered.
        num_begun, num_aborted: how many were, and were left before their end.
    """

    def __init__(
        self,
        pieces: Sequence[Any] = ("Hello", " there", "."),
        *,
        finish_reason: str = "stop",
        task: str = "generate",
        fails: tuple[int, Exception] | None = None,
        waits_before: int | None = None,
    ) -> None:
        self.facts = ModelFacts("scripted", task, 4096)
        self.pieces = list(pieces)
        self.finish_reason = finish_reason
        self.fails = fails
        self.waits_before = waits_before
        self.go_on = asyncio.Event()
        self.asked: list[tuple[Prompt, SamplingParams | None]] = []
        self.running = self.num_begun = self.num_aborted = 0
        self.is_healthy = True
        self.closed = False
        self.tokenizer = _tokenizer()

    async def answer(
        self, prompt: Prompt, sampling: SamplingParams, *, stream: bool, priority: int
    ) -> AsyncIterator[RequestOutput]:
        """See ``Engine.answer``."""
        self.asked.append((prompt, sampling))
        self.running += 1
        self.num_begun += 1
        finished = False
        said = ""
        try:
            place = 0
            while not finished:
                if self.waits_before == place:
                    await self.go_on.wait()
                if self.fails is not None and self.fails[0] == place:
                    raise self.fails[1]
                endless = self.pieces[-1] is ENDLESS
                last = len(self.pieces) - 1
                finished = place >= last and not endless
                text = self.pieces[min(place, last - endless)]
                said += text
                place += 1
                if stream or finished:
                    yield self._output(sampling, text if stream else said, finished)
                if endless:
                    await asyncio.sleep(0.001)
        finally:
            self.running -= 1
            self.num_aborted += not finished

    def _output(self, sampling: SamplingParams, text: str, finished: bool) -> RequestOutput:
        reason = self.finish_reason if finished else None
        answers = tuple(
            CompletionOutput(i, text, (1,), finish_reason=reason) for i in range(sampling.n)
        )
        return RequestOutput("r", "prompt", (5, 6, 7), answers, finished, num_cached_tokens=2)

    async def embed(
        self, prompt: Prompt, pooling: PoolingParams, *, priority: int
    ) -> EmbeddingRequestOutput:
        """The vector (0.6, 0.8)."""
        self.asked.append((prompt, None))
        if self.fails is not None:
            raise self.fails[1]
        vector = EmbeddingOutput((0.6, 0.8))
        return EmbeddingRequestOutput("r", None, (5, 6, 7), vector, finished=True)

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
        """Of a text its ids, of a conversation one for each message."""
        if isinstance(prompt, ChatPrompt):
            return list(range(len(prompt.messages)))
        assert isinstance(prompt, PlainPrompt)
        return self.tokenizer.encode(str(prompt.content), add_special_tokens=add_special_tokens)

    async def decode(self, token_ids: Sequence[int]) -> str:
        """See ``Engine.decode``."""
        return decode_ids(self.tokenizer, token_ids)

    async def stats(self) -> None:
        """None: it counts nothing."""
        return

    def close(self) -> None:
        """See ``Engine.close``."""
        self.closed = True


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what is certain to come; a test's own time limit ends it if it doesn't."""
    while not condition():
        await asyncio.sleep(0.005)
