"""The steps that take the most memory among those that the options allow."""

from __future__ import annotations

from collections.abc import Iterator

from sensorium.config import EngineConfig
from sensorium.sampling_params import SamplingParams
from sensorium.types import Chunk, EngineRequest


def fullest_steps(
    config: EngineConfig, context: int
) -> Iterator[tuple[list[EngineRequest], list[Chunk]]]:
    """Requests and their chunks, for memory profiling.

    One step prefills the ends of the longest contexts, with all of the token budget; one lets
    as many sequences as may run decode at the end of theirs. All sample with the costliest
    parameters: logits are among the largest tensors of a step. Every page is page 0, so
    that a cache of one page is enough.
    """
    budget = config.max_num_batched_tokens
    if not config.enable_chunked_prefill:
        budget = max(budget, context)
    num_prompts = min(config.max_num_seqs, max(1, budget // context))
    yield _step(config, num_prompts, min(budget, context), context)
    yield _step(config, min(config.max_num_seqs, config.max_num_batched_tokens), 1, context)


def _step(
    config: EngineConfig, num_seqs: int, num_tokens: int, context: int
) -> tuple[list[EngineRequest], list[Chunk]]:
    sampling = SamplingParams(temperature=1.0, top_p=0.5, presence_penalty=1.0).filled({})
    prompt = (0,) * context
    requests = [
        EngineRequest(f"profile {i}", token_ids=prompt, sampling=sampling, max_tokens=1)
        for i in range(num_seqs)
    ]
    pages = (0,) * -(-context // config.page_size)
    start = context - num_tokens
    chunks = [Chunk(r.request_id, start, (0,) * num_tokens, pages, num_rows=1) for r in requests]
    return requests, chunks
