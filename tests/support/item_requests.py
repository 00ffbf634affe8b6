"""Requests with items for the stand-in engine, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from stand_in_runner import StandInEngine, expected_answer, item, request

from sensorium.types import Batch, EngineRequest, MediaSpan


def with_items(
    request_id: str,
    *keys: bytes,
    length: int = 8,
    num_bytes: int = 40,
    lead: int = 2,
    tail: int = 2,
    atomic: bool = False,
    max_tokens: int = 3,
    num_pieces: int = 1,
) -> EngineRequest:
    """``lead`` tokens of text, then one span for each key, then ``tail`` tokens of text."""
    offsets = [lead + i * length for i in range(len(keys))]
    spans = [MediaSpan(i, (0, length), at, length, None, atomic) for i, at in enumerate(offsets)]
    return request(
        request_id,
        [1] * (lead + len(keys) * length + tail),
        max_tokens=max_tokens,
        items=tuple(item(key, length, num_bytes=num_bytes, num_pieces=num_pieces) for key in keys),
        spans=tuple(spans),
    )


def chunk_sizes(batch: Batch) -> dict[str, int]:
    """Request id → how many of its tokens a step computes."""
    return {chunk.request_id: len(chunk.token_ids) for chunk in batch.chunks}


def assert_answered(engine: StandInEngine, requests: Sequence[EngineRequest]) -> None:
    """Every answer is the one that the request gets alone."""
    for asked in requests:
        assert engine.answer(asked.request_id) == expected_answer(asked, engine.runner.config)
