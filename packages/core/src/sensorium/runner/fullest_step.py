"""The step with the most tokens and sequences that the options allow, for memory profiling."""

from __future__ import annotations

from sensorium.config import EngineConfig
from sensorium.sampling_params import SamplingParams
from sensorium.types import Chunk, EngineRequest


def fullest_step(config: EngineConfig) -> tuple[list[Chunk], list[EngineRequest], int]:
    """Chunks with their requests, and how many pages they need.

    As many sequences as may run share the token budget; each samples, with the costliest
    parameters: logits are the largest tensors of a step.
    """
    num_seqs = min(config.max_num_seqs, config.max_num_batched_tokens)
    num_tokens = config.max_num_batched_tokens // num_seqs
    pages_each = -(-num_tokens // config.page_size)
    sampling = SamplingParams(temperature=1.0, top_p=0.5, presence_penalty=1.0).filled({})
    chunks, requests = [], []
    for i in range(num_seqs):
        request = EngineRequest(
            request_id=f"profile {i}",
            token_ids=(0,) * num_tokens,
            sampling=sampling,
            max_tokens=1,
        )
        pages = tuple(range(i * pages_each, (i + 1) * pages_each))
        chunks.append(Chunk(request.request_id, 0, request.token_ids, pages, samples=True))
        requests.append(request)
    return chunks, requests, num_seqs * pages_each
