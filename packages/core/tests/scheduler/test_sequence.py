"""A request's own progress."""

from __future__ import annotations

import pytest
from stand_in_runner import item, request, scheduler_config

from sensorium.scheduler.layout import Layout
from sensorium.scheduler.sequence import Sequence
from sensorium.types import PENDING, Chunk, EngineRequest, MediaSpan, SampledTokens


def sequence(asked: EngineRequest) -> Sequence:
    config = scheduler_config()
    return Sequence(asked, 0, Layout(asked, chunked=True), config)


def taken(seq: Sequence, chunk: Chunk, *token_ids: int) -> None:
    seq.take(chunk, SampledTokens(chunk.request_id, token_ids))


def test_a_chunk_samples_only_at_the_end() -> None:
    seq = sequence(request("a", range(10)))
    seq.pages = (3, 1, 2)
    chunk = seq.advance(6)
    assert (chunk.start, chunk.stop, chunk.token_ids) == (0, 6, tuple(range(6)))
    assert (chunk.pages, chunk.num_rows) == ((3, 1, 2), 0)
    assert (seq.num_computed, seq.num_pending) == (6, 0)
    assert seq.advance(10).num_rows == 1
    assert (seq.num_computed, seq.num_pending, seq.num_tokens) == (10, 1, 11)


def test_a_pending_token_can_be_computed_before_it_is_known() -> None:
    seq = sequence(request("a", range(3), max_tokens=3))
    seq.advance(3)
    assert not seq.must_wait
    chunk = seq.advance(4)
    assert (chunk.token_ids, chunk.num_rows) == ((PENDING,), 1)
    taken(seq, chunk._replace(start=2, token_ids=(2,)), 7)
    assert (seq.token_ids, seq.num_pending) == ([0, 1, 2, 7], 1)
    seq.advance(5)
    assert seq.must_wait, "the third and last token is on its way"


def test_decoding_is_having_one_sampled_token_to_compute() -> None:
    seq = sequence(request("a", [1]))
    states = [seq.is_prefilling]
    taken(seq, seq.advance(1), 5)
    states.append(seq.is_prefilling)
    seq.num_computed, seq.prefill_end = 0, seq.num_tokens
    states.append(seq.is_prefilling)
    assert states == [True, False, True], "before the first token; with it; preempted"


def test_missing_pages() -> None:
    seq = sequence(request("a", range(8)))
    assert seq.num_missing_pages == 2
    seq.pages = (0, 1)
    seq.advance(8)
    assert seq.num_missing_pages == 1, "the pending token counts"


def test_keys_of_pages_with_generated_tokens() -> None:
    seq = sequence(request("a", range(6)))
    assert len(seq.page_keys(1)) == 1
    for token in (6, 7):
        taken(seq, seq.advance(token), token)
    assert seq.page_keys(2) == sequence(request("b", range(8))).page_keys(2)


@pytest.mark.parametrize(("num_found", "reusable"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_one_token_is_left_to_compute(num_found: int, reusable: int) -> None:
    assert sequence(request("a", range(12))).num_reusable_pages(num_found) == reusable


@pytest.mark.parametrize(("num_found", "reusable"), [(1, 1), (2, 1), (3, 1), (4, 4), (5, 5)])
def test_atomic_ranges_are_not_entered(num_found: int, reusable: int) -> None:
    """The ranges [6, 10) and [9, 16), which overlap; pages end at 4, 8, 12, 16, 20."""
    spans = (
        MediaSpan(0, (0, 3), 6, 4, bytes([1, 1, 1, 0]), atomic=True),
        MediaSpan(1, (0, 7), 9, 7, non_causal=True),
    )
    asked = request("a", [1] * 22, items=(item(b"a", 3), item(b"b", 7)), spans=spans)
    assert sequence(asked).num_reusable_pages(num_found) == reusable


def test_generated_tokens_are_not_taken_from_the_cache() -> None:
    seq = sequence(request("a", range(6), max_tokens=20))
    for token in range(10):
        taken(seq, seq.advance(6 + token), token)
    assert seq.num_reusable_pages(3) == 1
