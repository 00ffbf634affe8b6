"""The same work without a server, each in a process of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sensorium import LLM, AsyncEngine, SamplingParams
from sensorium.outputs import RequestOutputKind

Conversations = Sequence[list[dict[str, Any]]]


def stream_all(
    model: str, options: Mapping[str, Any], batches: Sequence[Conversations], num_tokens: int
) -> list[tuple[float, float]]:
    """Streams one batch after another from ``AsyncEngine``, the engine in a process of its own.

    Returns:
        For each batch the seconds that it took, and this process' CPU seconds.
    """
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=num_tokens,
        ignore_eos=True,
        output_kind=RequestOutputKind.DELTA,
    )

    async def one(engine: AsyncEngine, conversation: Any) -> int:
        num_new = 0
        async for output in engine.chat(conversation, sampling):
            num_new += sum(len(answer.token_ids) for answer in output.outputs)
        return num_new

    async def run() -> list[tuple[float, float]]:
        figures = []
        async with AsyncEngine(model, engine_process=True, **options) as engine:
            for batch in batches:
                begun_s, spent_s = time.perf_counter(), time.process_time()
                counts = await asyncio.gather(*(one(engine, entry) for entry in batch))
                assert counts == [num_tokens] * len(batch)
                figures.append((time.perf_counter() - begun_s, time.process_time() - spent_s))
        return figures

    return asyncio.run(run())


def answer_all(
    model: str, options: Mapping[str, Any], batches: Sequence[Conversations], num_tokens: int
) -> list[float]:
    """``LLM.chat`` of one batch after another; the seconds that each took."""
    sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
    seconds = []
    llm = LLM(model, **options)
    for batch in batches:
        begun_s = time.perf_counter()
        outputs = llm.chat(list(batch), sampling, use_tqdm=False)
        seconds.append(time.perf_counter() - begun_s)
        assert all(len(output.outputs[0].token_ids) == num_tokens for output in outputs)
    llm.close()
    return seconds
