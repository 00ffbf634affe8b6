"""When items are encoded, where chunks are cut for them, and whose embeddings make room."""

from __future__ import annotations

from item_requests import assert_answered, chunk_sizes, with_items
from stand_in_runner import StandInEngine, request, scheduler_config


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
