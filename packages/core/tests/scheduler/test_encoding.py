"""When items are encoded, where chunks are cut for them, and whose embeddings make room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from item_requests import assert_answered, chunk_sizes, with_items
from stand_in_runner import StandInEngine, request, scheduler_config

from sensorium.errors import CacheMissError
from sensorium.types import Batch


def test_an_item_is_encoded_before_the_first_chunk_that_needs_it_and_only_then() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=4))
    engine.add(with_items("a", b"cat", lead=4))
    assert engine.step().encode == ()
    assert [task.key for task in engine.step().encode] == [b"cat"]
    assert engine.scheduler.stats.encoder_pinned_bytes == 40
    assert engine.step().encode == ()
    assert engine.scheduler.stats.encoder_pinned_bytes == 0, "its last token is consumed"
    engine.finish()
    assert engine.last("a").num_encoded_items == 1
    assert engine.scheduler.has_embedding(b"cat")


def test_requests_with_the_same_item_share_one_embedding() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=40, prefix_caching=False))
    engine.add(with_items("a", b"cat"), with_items("b", b"cat"))
    engine.step()
    assert engine.runner.num_encodes == {b"cat": 1}
    engine.add(with_items("c", b"cat"))
    engine.finish()
    assert engine.runner.num_encodes == {b"cat": 1}
    counts = [(engine.last(i).num_encoded_items, engine.last(i).num_encoder_hits) for i in "abc"]
    assert counts == [(1, 0), (0, 1), (0, 1)]


def test_an_item_that_stands_twice_in_a_prompt_is_encoded_once() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=40))
    engine.add(asked := with_items("a", b"cat", b"cat"))
    engine.finish()
    assert engine.runner.num_encodes == {b"cat": 1}
    assert_answered(engine, [asked])


def test_an_item_wholly_in_the_prefix_cache_is_not_encoded() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(with_items("a", b"cat", length=6, lead=2))
    engine.finish()
    engine.scheduler.reset_encoder_cache()
    engine.add(asked := with_items("b", b"cat", length=6, lead=2))
    engine.finish()
    assert engine.last("b").num_cached_tokens == 8
    assert engine.runner.num_encodes == {b"cat": 1}
    assert_answered(engine, [asked])


def test_an_item_partly_in_the_prefix_cache_is_encoded_again() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(with_items("a", b"cat", length=8, lead=2))
    engine.finish()
    engine.scheduler.reset_encoder_cache()
    engine.add(asked := with_items("b", b"cat", length=8, lead=2))
    engine.finish()
    assert engine.last("b").num_cached_tokens == 8
    assert engine.runner.num_encodes == {b"cat": 2}
    assert_answered(engine, [asked])


def test_a_chunk_ends_before_an_item_that_has_no_room_yet() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=40))
    engine.add(asked := with_items("a", b"a", b"b", b"c", num_bytes=50))
    sizes = []
    while "a" not in engine.updates:
        sizes.append(chunk_sizes(engine.step())["a"])
    assert sizes == [2 + 8 + 8, 8 + 2]
    engine.finish()
    assert_answered(engine, [asked])


def test_embeddings_nobody_needs_make_room_the_oldest_first() -> None:
    engine = StandInEngine(scheduler_config(encoder_cache_bytes=100))
    for key in (b"a", b"b", b"c"):
        engine.add(with_items(key.decode(), key))
        engine.finish()
    assert not engine.scheduler.has_embedding(b"a")
    assert engine.scheduler.has_embedding(b"b")
    assert set(engine.runner.cache) == {b"b", b"c"}


def test_what_a_chunk_needs_is_not_dropped_for_what_it_needs_too() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=40, prefix_caching=False))
    for key in (b"cat", b"dog"):
        engine.add(with_items(key.decode(), key))
        engine.finish()
    engine.add(with_items("a", b"emu", b"cat"), with_items("b", b"dog"))
    assert engine.step().evict == (b"dog",), "the cat was used before it, but is needed"
    engine.finish()
    assert engine.runner.num_encodes[b"cat"] == 1


def test_reset_encoder_cache_keeps_what_is_needed() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=8))
    engine.add(with_items("a", b"cat"))
    engine.step()
    engine.scheduler.reset_encoder_cache()
    assert engine.scheduler.has_embedding(b"cat")
    engine.finish()
    engine.scheduler.reset_encoder_cache()
    assert engine.scheduler.has_work
    engine.finish()
    assert engine.runner.cache == {}


def test_an_atomic_span_is_never_cut() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=10))
    engine.add(asked := with_items("a", b"cat", b"dog", length=7, lead=4, atomic=True))
    engine.finish()
    assert [len(c.token_ids) for b in engine.batches for c in b.chunks] == [4, 7, 9, 1, 1]
    assert_answered(engine, [asked])


def test_a_prefix_hit_does_not_enter_an_atomic_span() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=40))
    engine.add(with_items("a", b"cat", length=9, lead=6, tail=0, atomic=True))
    engine.finish()
    engine.add(asked := with_items("b", b"cat", length=9, lead=6, tail=0, atomic=True))
    engine.finish()
    assert engine.last("b").num_cached_tokens == 4
    assert_answered(engine, [asked])


def test_an_atomic_span_that_decoding_leaves_no_room_for_goes_first_next_time() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=8))
    engine.add(request("a", [3], max_tokens=50))
    engine.step()
    engine.add(asked := with_items("b", b"cat", length=8, lead=0, atomic=True))
    assert chunk_sizes(engine.step()) == {"a": 1}
    assert chunk_sizes(engine.step()) == {"b": 8}
    engine.finish()
    assert_answered(engine, [asked])


# --- piece by piece ------------------------------------------------------------------------


def decoding(num_pieces: int = 2, depth: int = 0, **limits: Any) -> StandInEngine:
    """An engine in which a request decodes for long."""
    config = scheduler_config(
        max_num_batched_tokens=40, max_encode_pieces_per_step=num_pieces, **limits
    )
    engine = StandInEngine(config, depth=depth)
    engine.add(request("text", [3], max_tokens=60))
    engine.step()
    return engine


def pieces_of(batch: Batch) -> dict[bytes, tuple[int, int]]:
    return {task.key: task.pieces for task in batch.encode}


def test_while_nobody_decodes_all_pieces_are_encoded_at_once() -> None:
    engine = StandInEngine(scheduler_config(max_encode_pieces_per_step=2))
    engine.add(asked := with_items("a", b"cat", num_pieces=7))
    batch = engine.step()
    assert pieces_of(batch) == {b"cat": (0, 7)}
    assert chunk_sizes(batch) == {"a": 12}
    engine.finish()
    assert_answered(engine, [asked])


@pytest.mark.parametrize("depth", [0, 1])
def test_rows_that_decode_wait_for_so_many_pieces_and_no_more(depth: int) -> None:
    engine = decoding(depth=depth)
    engine.add(asked := with_items("a", b"cat", num_pieces=5))
    steps = [engine.step() for _ in range(3)]
    assert [pieces_of(step)[b"cat"] for step in steps] == [(0, 2), (2, 4), (4, 5)]
    assert [chunk_sizes(step).get("a", 0) for step in steps] == [2, 0, 10]
    assert all(chunk_sizes(step)["text"] == 1 for step in steps)
    engine.finish()
    assert_answered(engine, [asked])
    assert engine.last("a").num_encoded_items == 1


def test_the_whole_room_is_taken_with_the_first_piece() -> None:
    engine = decoding(num_pieces=1)
    engine.add(with_items("a", b"cat", num_bytes=70, num_pieces=3))
    engine.step()
    stats = engine.scheduler.stats
    assert stats.encoder_used_bytes == stats.encoder_pinned_bytes == 70
    assert not engine.scheduler.has_embedding(b"cat"), "its last piece isn't asked for yet"
    engine.finish()
    assert engine.scheduler.has_embedding(b"cat")


def test_items_that_are_not_divided_are_a_piece_each() -> None:
    engine = decoding(num_pieces=2)
    engine.add(asked := with_items("a", b"a", b"b", b"c", length=4, num_bytes=10))
    assert [len(engine.step().encode) for _ in range(2)] == [2, 1]
    engine.finish()
    assert_answered(engine, [asked])


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("chunked", [True, False])
def test_what_is_computed_in_one_step_waits_for_all_its_items(depth: int, chunked: bool) -> None:
    engine = decoding(num_pieces=3, depth=depth, chunked_prefill=chunked)
    engine.add(asked := with_items("a", b"a", b"b", num_pieces=5, atomic=True, lead=0, tail=0))
    sizes = [chunk_sizes(engine.step()).get("a", 0) for _ in range(4)]
    assert sizes == ([0, 8, 0, 8] if chunked else [0, 0, 0, 16])
    engine.finish()
    assert_answered(engine, [asked])


@pytest.mark.parametrize("depth", [0, 1])
def test_requests_with_the_same_item_share_its_pieces(depth: int) -> None:
    engine = decoding(num_pieces=1, depth=depth, prefix_caching=False)
    both = [with_items(name, b"cat", num_pieces=4) for name in "ab"]
    engine.add(*both)
    engine.finish()
    assert engine.runner.num_encodes == {b"cat": 1}
    assert sum(len(batch.encode) for batch in engine.batches) == 4
    assert_answered(engine, both)


def test_another_request_goes_on_with_the_pieces_of_one_that_left() -> None:
    engine = decoding(num_pieces=1, prefix_caching=False)
    engine.add(
        with_items("a", b"cat", num_pieces=3), asked := with_items("b", b"cat", num_pieces=3)
    )
    engine.step()
    engine.abort("a")
    assert pieces_of(engine.step()) == {b"cat": (1, 2)}
    engine.finish()
    assert_answered(engine, [asked])


@pytest.mark.parametrize("depth", [0, 1])
def test_an_abort_between_pieces_gives_back_everything(depth: int) -> None:
    engine = decoding(num_pieces=1, depth=depth)
    engine.add(with_items("a", b"cat", num_pieces=3))
    engine.step()
    engine.abort("a")
    assert engine.scheduler.stats.encoder_used_bytes == 0
    engine.add(asked := with_items("b", b"cat", num_pieces=3))
    engine.finish()
    assert_answered(engine, [asked])


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_failure_between_pieces_ends_its_request_and_no_other(at: int, depth: int) -> None:
    config = scheduler_config(max_encode_pieces_per_step=1, prefix_caching=False)
    engine = StandInEngine(config, frozenset({("a", at)}), depth)
    engine.add(text := request("text", [3], max_tokens=60))
    engine.step()
    requests = [with_items(name, b"cat", lead=0, num_pieces=4, num_bytes=70) for name in "ab"]
    engine.add(*requests)
    engine.finish()
    assert engine.answer("a")[1] == "error"
    assert_answered(engine, [text, requests[1]])


def test_a_step_that_could_not_be_carried_out_fails_who_had_a_piece_in_it() -> None:
    engine = decoding(num_pieces=1)
    engine.add(with_items("a", b"cat", lead=0, num_pieces=3))

    def breaks(batch: Batch) -> None:
        engine._between(batch)
        raise ValueError("broken")

    engine.runner.on_launch = breaks
    engine.step()
    engine.runner.on_launch = engine._between
    assert engine.answer("a")[1] == engine.answer("text")[1] == "error"
    engine.scheduler.check_integrity()
    assert engine.scheduler.stats.encoder_used_bytes == 0


def test_an_item_known_by_its_key_is_not_there_before_its_last_piece() -> None:
    engine = decoding(num_pieces=1)
    engine.add(asked := with_items("a", b"cat", num_pieces=3))
    by_key = with_items("b", b"cat", num_pieces=3)
    by_key = replace(by_key, items=tuple(replace(one, features={}) for one in by_key.items))
    engine.step()
    with pytest.raises(CacheMissError):
        engine.add(by_key)
    engine.step()
    engine.step()
    engine.add(by_key)
    engine.finish()
    assert_answered(engine, [asked, by_key])
