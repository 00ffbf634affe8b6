"""Sampling for requests whose tokens are all known, without a runner.

``bad_words`` come as masks, as from the step loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sensorium.engine.constraints import Constraints
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import choose
from sensorium.runner.token_counts import TokenCounts
from sensorium.runner.upload import Download
from sensorium.types import Batch, Chunk, Masks, SampledTokens, StepOutput


def sample(
    logits: Tensor, requests: Sequence[RunningRequest]
) -> tuple[list[SampledTokens], dict[str, str]]:
    """``choose``, and what came of it; the requests get slots by their order."""
    counts = counted(requests, logits)
    choice = choose(logits, requests, counts, masks_of(requests, logits.shape[-1]))
    return choice.read(Download(choice.tensors).wait())


def counted(requests: Sequence[RunningRequest], logits: Tensor) -> TokenCounts:
    """Each distinct prompt and answer is counted once: thousands of requests may have the same."""
    counts = TokenCounts(max(1, len(requests)), logits.shape[-1], logits.device)
    first: dict[object, int] = {}
    for slot, running in enumerate(requests):
        given = (running.request.token_ids, tuple(running.generated))
        running.slot, running.num_counted = first.setdefault(given, slot), 0
        if running.slot == slot:
            counts.start(running)
            counts.take(running)
    slots = [running.slot for running in requests]
    for table in (counts.in_prompt, counts.in_answer):
        table[: len(slots)] = table[slots]
    for slot, running in enumerate(requests):
        running.slot, running.num_counted = slot, len(running.generated)
    return counts


def masks_of(requests: Sequence[RunningRequest], vocab_size: int) -> Masks | None:
    """What the requests' bad words leave, behind the tokens that they have."""
    constraints = Constraints(vocab_size)
    chunks, tokens = [], []
    for running in requests:
        request, answer = running.request, tuple(running.generated)
        constraints.start(request)
        ids = request.token_ids + answer
        chunks.append(Chunk(request.request_id, 0, ids, (0,), num_rows=1))
        tokens.append(SampledTokens(request.request_id, answer))
    rows = constraints.rows_of(Batch(chunks=tuple(chunks)))
    # The chunks' rows are behind their answers; these came with the rows one token before.
    before = [
        replace(row, chunk=row.chunk._replace(token_ids=row.chunk.token_ids[:-1])) for row in rows
    ]
    constraints.accept(before, StepOutput(tuple(tokens)))
    masks, failed = constraints.masks(rows)
    assert failed == {}
    return masks
