"""The policy, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from stand_in_runner import (
    StandInEngine,
    expected_answer,
    item,
    request,
    scheduler_config,
)

from sensorium.errors import CacheMissError, RequestError
from sensorium.types import (
    PENDING,
    Batch,
    EngineRequest,
    MediaSpan,
    SampledToken,
    StepOutput,
    TokenLogprobs,
)


def with_items(
    request_id: str,
    *keys: bytes,
    length: int = 8,
    num_bytes: int = 40,
    lead: int = 2,
    tail: int = 2,
    atomic: bool = False,
    max_tokens: int = 3,
) -> EngineRequest:
    """``lead`` tokens of text, then one span for each key, then ``tail`` tokens of text."""
    offsets = [lead + i * length for i in range(len(keys))]
    spans = [MediaSpan(i, (0, length), at, length, None, atomic) for i, at in enumerate(offsets)]
    return request(
        request_id,
        [1] * (lead + len(keys) * length + tail),
        max_tokens=max_tokens,
        items=tuple(item(key, length, num_bytes=num_bytes) for key in keys),
        spans=tuple(spans),
    )


def chunk_sizes(batch: Batch) -> dict[str, int]:
    return {chunk.request_id: len(chunk.token_ids) for chunk in batch.chunks}


def assert_answered(engine: StandInEngine, requests: Sequence[EngineRequest]) -> None:
    for asked in requests:
        assert engine.answer(asked.request_id) == expected_answer(asked, engine.runner.config)


# --- batching -----------------------------------------------------------------------------


def test_a_prompt_is_computed_in_chunks_of_the_budget_then_one_token_at_a_time() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=10))
    asked = request("a", range(25), max_tokens=3)
    engine.add(asked)
    engine.finish()
    assert [chunk_sizes(b).get("a") for b in engine.batches] == [10, 10, 5, 1, 1, None]
    assert [c.samples for b in engine.batches for c in b.chunks] == [False, False, True, True, True]
    assert engine.batches[-1].ended == ("a",)
    assert_answered(engine, [asked])


def test_those_that_decode_come_before_those_that_prefill() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=10))
    engine.add(request("long", range(30), max_tokens=2), request("short", [9], max_tokens=9))
    assert chunk_sizes(engine.step()) == {"long": 10}
    engine.add(request("late", range(50, 56), max_tokens=9))
    assert chunk_sizes(engine.step()) == {"long": 10}
    assert chunk_sizes(engine.step()) == {"long": 10}
    assert chunk_sizes(engine.step()) == {"long": 1, "short": 1, "late": 6}
    engine.add(request("later", range(60, 90)))
    batch = engine.step()
    assert [c.request_id for c in batch.chunks] == ["short", "late", "later"]
    assert chunk_sizes(batch)["later"] == 8
    engine.finish()


def test_no_more_sequences_run_than_allowed() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=2))
    requests = [request(str(i), [i, i]) for i in range(5)]
    engine.add(*requests)
    assert chunk_sizes(engine.step()) == {"0": 2, "1": 2}
    assert engine.scheduler.stats.num_waiting == 3
    engine.finish()
    assert_answered(engine, requests)


def test_started_and_ended_tell_the_runner_what_to_keep() -> None:
    engine = StandInEngine(scheduler_config())
    asked = request("a", [1], max_tokens=1)
    engine.add(asked)
    first = engine.step()
    assert (first.started, first.ended) == ((asked,), ())
    assert engine.scheduler.has_work, "the runner hasn't been told"
    last = engine.step()
    assert (last.started, last.ended, last.chunks) == ((), ("a",), ())
    assert not engine.scheduler.has_work


# --- the end of a request ------------------------------------------------------------------


def ended_by(
    asked: EngineRequest, tokens: list[int], **limits: int
) -> tuple[int, str | None, int | None]:
    """Feeds ``tokens``; returns how many were taken, the finish reason and the stop id."""
    engine = StandInEngine(scheduler_config(**limits))
    engine.add(asked)
    for count, token in enumerate(tokens, 1):
        batch = engine.scheduler.schedule()
        sampled = SampledToken(asked.request_id, token)
        [update] = engine.scheduler.process(batch, StepOutput((sampled,)))
        assert update.new_token_ids == (token,)
        if update.finish_reason is not None:
            return count, update.finish_reason, update.stop_id
    return len(tokens), None, None


def test_a_stop_id_ends_it_and_is_named() -> None:
    asked = request("a", [1, 2], max_tokens=9, stop_ids=[7, 8])
    assert ended_by(asked, [5, 8, 5]) == (2, "stop", 8)


def test_stop_ids_do_not_count_before_min_tokens() -> None:
    asked = request("a", [1, 2], max_tokens=9, min_tokens=2, stop_ids=[7])
    assert ended_by(asked, [7, 7, 7, 5]) == (3, "stop", 7)


def test_a_stop_id_as_the_last_token_is_a_stop() -> None:
    asked = request("a", [1, 2], max_tokens=2, stop_ids=[7])
    assert ended_by(asked, [5, 7]) == (2, "stop", 7)
    assert ended_by(asked, [5, 5]) == (2, "length", None)


def test_the_context_ends_it() -> None:
    assert ended_by(request("a", [1, 2, 3], max_tokens=99), [5] * 9, max_model_len=8) == (
        5,
        "length",
        None,
    )


def test_the_kv_cache_ends_what_runs_alone() -> None:
    asked = request("a", [1, 2, 3], max_tokens=99)
    assert ended_by(asked, [5] * 99, num_pages=2, page_size=4) == (6, "length", None)


def test_logprobs_are_handed_on() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", [1]))
    logprobs = TokenLogprobs(-0.5, 1, (3,), (-0.5,))
    batch = engine.scheduler.schedule()
    [update] = engine.scheduler.process(batch, StepOutput((SampledToken("a", 3, logprobs),)))
    assert update.logprobs == (logprobs,)


# --- prefix cache --------------------------------------------------------------------------


def test_a_prompt_begins_behind_the_pages_that_are_there() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", range(10)))
    engine.finish()
    assert engine.last("a").num_cached_tokens == 0
    engine.add(asked := request("b", [*range(10), 77, 78]))
    batch = engine.step()
    assert (batch.chunks[0].start, batch.chunks[0].stop) == (8, 12)
    engine.finish()
    assert engine.last("b").num_cached_tokens == 8
    assert_answered(engine, [asked])
    stats = engine.scheduler.stats
    assert (stats.num_prefix_queries, stats.num_prefix_hits) == (22, 8)


def test_at_least_one_token_is_left_to_compute() -> None:
    engine = StandInEngine(scheduler_config())
    for request_id in ("a", "b"):
        engine.add(request(request_id, range(8)))
        engine.finish()
    assert engine.last("b").num_cached_tokens == 4
    assert engine.answer("a") == engine.answer("b")


def test_an_answer_is_found_by_the_prompt_that_repeats_it() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", range(6), max_tokens=8))
    engine.finish()
    tokens, _ = engine.answer("a")
    engine.add(asked := request("b", [*range(6), *tokens, 9]))
    engine.finish()
    assert engine.last("b").num_cached_tokens == 12, "all but the last, which was never computed"
    assert_answered(engine, [asked])


def test_running_sequences_share_pages() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", range(16), max_tokens=20))
    engine.step()
    engine.add(request("b", [*range(16), 50], max_tokens=20))
    batch = engine.step()
    pages = {chunk.request_id: chunk.pages for chunk in batch.chunks}
    assert pages["a"][:4] == pages["b"][:4]
    assert engine.scheduler.stats.num_used_pages == 6
    engine.finish()


def test_salts_share_nothing() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", range(16), salt="one"))
    engine.finish()
    engine.add(request("b", range(16), salt="two"))
    engine.finish()
    assert engine.last("b").num_cached_tokens == 0


def test_without_prefix_caching_nothing_is_found() -> None:
    engine = StandInEngine(scheduler_config(prefix_caching=False))
    for request_id in ("a", "b"):
        engine.add(request(request_id, range(16)))
        engine.finish()
    assert engine.last("b").num_cached_tokens == 0
    assert engine.scheduler.stats.num_known_pages == 0


def test_pages_of_other_items_under_equal_placeholders_are_not_reused() -> None:
    """Row 8 of the threats: the prompts differ in nothing but the item."""
    engine = StandInEngine(scheduler_config())
    cat, dog = with_items("cat", b"cat"), with_items("dog", b"dog")
    engine.add(cat)
    engine.finish()
    engine.add(dog)
    engine.finish()
    assert engine.last("dog").num_cached_tokens == 0
    assert_answered(engine, [cat, dog])


def test_reset_prefix_cache() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", range(16)))
    engine.step()
    assert not engine.scheduler.reset_prefix_cache(), "pages are in use"
    engine.finish()
    assert engine.scheduler.reset_prefix_cache()
    engine.add(request("b", range(16)))
    engine.finish()
    assert engine.last("b").num_cached_tokens == 0


# --- media ---------------------------------------------------------------------------------


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


# --- a prompt in one step ------------------------------------------------------------------


def test_without_chunks_a_prompt_is_computed_in_one_step() -> None:
    engine = StandInEngine(scheduler_config(chunked_prefill=False))
    requests = [request(str(i), range(i, i + 10)) for i in range(3)]
    engine.add(*requests)
    assert chunk_sizes(engine.step()) == {"0": 10}
    assert chunk_sizes(engine.step()) == {"0": 1, "1": 10}
    engine.finish()
    assert_answered(engine, requests)


def test_without_chunks_a_long_prompt_has_a_wide_step_to_itself() -> None:
    engine = StandInEngine(scheduler_config(chunked_prefill=False))
    requests = [request("a", [1], max_tokens=9), request("b", range(40)), request("c", [2])]
    engine.add(*requests)
    sizes = [chunk_sizes(engine.step()) for _ in range(4)]
    assert sizes == [{"a": 1}, {"b": 40}, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}]
    engine.finish()
    assert_answered(engine, requests)


def test_without_chunks_items_wait_until_all_have_room() -> None:
    config = scheduler_config(chunked_prefill=False, max_num_batched_tokens=40)
    engine = StandInEngine(config)
    requests = [
        with_items("a", b"a", b"b", num_bytes=30),
        with_items("b", b"c", b"d", num_bytes=30),
    ]
    engine.add(*requests)
    assert chunk_sizes(engine.step()) == {"a": 20}
    engine.finish()
    assert_answered(engine, requests)


# --- preemption ----------------------------------------------------------------------------


def test_the_latest_arrival_gives_up_its_pages_and_computes_them_again() -> None:
    config = scheduler_config(num_pages=8, prefix_caching=False)
    engine = StandInEngine(config)
    requests = [request(str(i), [i] * 7, max_tokens=20) for i in range(3)]
    engine.add(*requests)
    engine.finish()
    assert_answered(engine, requests)
    preemptions = [engine.last(str(i)).num_preemptions for i in range(3)]
    assert preemptions[0] == 0
    assert preemptions[2] > 0
    assert engine.scheduler.stats.num_preemptions == sum(preemptions)
    ended = [i for b in engine.batches for i in b.ended]
    started = [r.request_id for b in engine.batches for r in b.started]
    assert sorted(ended) == sorted(started)
    assert started.count("2") == preemptions[2] + 1
    assert started.count("0") == 1


def test_a_resumed_request_shows_the_runner_all_its_generated_tokens() -> None:
    """Also where the prefix cache has them: penalties and seeds depend on them."""
    engine = StandInEngine(scheduler_config(num_pages=9))
    requests = [request(str(i), [i] * 7, max_tokens=24) for i in range(2)]
    engine.add(*requests)
    engine.finish()
    assert engine.last("1").num_preemptions > 0
    resumed = [
        next(c for c in b.chunks if c.request_id == "1")
        for b in engine.batches
        if any(r.request_id == "1" for r in b.started)
    ]
    assert len(resumed) > 1
    for chunk in resumed[1:]:
        assert chunk.start == 4, "what the cache has of the prompt is used"
        assert chunk.stop > 8
    assert_answered(engine, requests)


def test_num_cached_tokens_is_that_of_the_first_time() -> None:
    engine = StandInEngine(scheduler_config(num_pages=8))
    engine.add(*(request(str(i), [i] * 7, max_tokens=20) for i in range(2)))
    engine.finish()
    assert engine.last("1").num_preemptions > 0
    assert engine.last("1").num_cached_tokens == 0


@pytest.mark.parametrize("num_pages", range(40, 46))
def test_a_later_arrival_without_a_page_stands_still(num_pages: int) -> None:
    """``b`` decodes beside the long prefill of ``a``, and takes no page from it."""
    config = scheduler_config(page_size=1, num_pages=num_pages, max_num_batched_tokens=8)
    engine = StandInEngine(config)
    requests = [with_items("a", *[b"cat", b"dog"] * 2, lead=4, atomic=True)]
    requests.append(request("b", [1], max_tokens=20))
    engine.add(*requests)
    engine.finish()
    assert engine.last("a").num_preemptions == 0
    assert_answered(engine, requests)


def test_a_running_sequence_is_left_a_page_to_grow_into() -> None:
    engine = StandInEngine(scheduler_config(num_pages=4, prefix_caching=False))
    requests = [request("a", [1] * 4, max_tokens=3), request("b", [2] * 12, max_tokens=1)]
    engine.add(*requests)
    assert chunk_sizes(engine.step()) == {"a": 4}, "one page is left beside the three for b"
    engine.finish()
    assert engine.scheduler.stats.num_preemptions == 0
    assert_answered(engine, requests)


@pytest.mark.parametrize("num_pages", range(34, 40))
def test_what_has_a_chunk_in_the_step_is_not_preempted_in_it(num_pages: int) -> None:
    """``c`` goes first in a step where those that decode run out of pages."""
    config = scheduler_config(page_size=1, num_pages=num_pages, max_num_batched_tokens=9)
    engine = StandInEngine(config)
    requests = [request(i, [1], max_tokens=25) for i in "ab"]
    requests.append(with_items("c", b"cat", lead=20, tail=0, atomic=True))
    engine.add(*requests)
    engine.finish()
    assert_answered(engine, requests)


def test_an_earlier_arrival_that_waits_for_tokens_keeps_its_embeddings() -> None:
    """``b`` must go first in the next step; ``c``, without room, doesn't take it from it."""
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=8))
    items = (item(b"cat", 4, num_bytes=60), item(b"dog", 8, num_bytes=30))
    spans = (
        MediaSpan(0, (0, 2), 0, 2),
        MediaSpan(1, (0, 8), 2, 8, atomic=True),
        MediaSpan(0, (2, 4), 10, 2),
    )
    requests = [
        request("a", [3], max_tokens=20),
        request("b", [1] * 13, items=items, spans=spans),
        with_items("c", b"emu", num_bytes=60, lead=1),
    ]
    engine.add(*requests)
    assert chunk_sizes(engine.step()) == {"a": 1, "b": 2, "c": 1}
    assert chunk_sizes(engine.step()) == {"a": 1}
    assert chunk_sizes(engine.step()) == {"b": 8}
    engine.finish()
    assert engine.last("b").num_preemptions == 0
    assert_answered(engine, requests)


def test_requests_that_hold_what_the_other_lacks_get_on_while_text_keeps_coming() -> None:
    """Each holds its outer item and needs the inner one; no later arrival joins meanwhile."""

    def asked(request_id: str, outer: bytes, inner: bytes) -> EngineRequest:
        spans = (
            MediaSpan(0, (0, 4), 0, 4),
            MediaSpan(1, (0, 20), 9, 20, atomic=True),
            MediaSpan(0, (4, 8), 29, 4),
        )
        items = (item(outer, 8, num_bytes=50), item(inner, 20, num_bytes=40))
        return request(request_id, [1] * 34, items=items, spans=spans)

    engine = StandInEngine(scheduler_config(max_num_batched_tokens=24, num_pages=200))
    requests = [asked("x", b"a", b"b"), asked("y", b"c", b"d")]
    requests += [request(str(i), [i] * 40) for i in range(20)]
    engine.add(*requests)
    assert chunk_sizes(engine.step()) == {"x": 9, "y": 9, "0": 6}
    assert chunk_sizes(engine.step()) == {"0": 24}
    assert chunk_sizes(engine.step()) == {"0": 10}
    assert chunk_sizes(engine.step()) == {"0": 1, "x": 23}
    engine.finish()
    assert (engine.last("x").num_preemptions, engine.last("y").num_preemptions) == (0, 1)
    assert_answered(engine, requests)


# --- embeddings that can't be made again ---------------------------------------------------


def by_key_only(asked: EngineRequest) -> EngineRequest:
    """The same request without the features of its items."""
    items = tuple(replace(i, features={}, uuid=f"its {i.key.decode()}") for i in asked.items)
    return replace(asked, items=items)


def test_an_item_known_by_its_key_alone_is_held_to_the_end() -> None:
    engine = StandInEngine(scheduler_config(prefix_caching=False))
    engine.add(with_items("a", b"cat"))
    engine.finish()
    engine.add(asked := by_key_only(with_items("b", b"cat", max_tokens=9)))
    engine.step()
    engine.step()
    assert engine.scheduler.stats.encoder_pinned_bytes == 40, "its last token is consumed"
    engine.finish()
    assert_answered(engine, [asked])


def test_an_unknown_key_without_features_is_a_miss() -> None:
    engine = StandInEngine(scheduler_config())
    with pytest.raises(CacheMissError, match="for scent at index 0, uuid its cat") as caught:
        engine.scheduler.add(by_key_only(with_items("a", b"cat")))
    assert not caught.value.retryable
    assert not engine.scheduler.has_work


def test_it_is_held_while_it_waits() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=1, prefix_caching=False))
    engine.add(with_items("a", b"cat", num_bytes=30))
    engine.finish()
    engine.add(other := with_items("b", b"dog", b"emu", num_bytes=30))
    engine.add(asked := by_key_only(with_items("c", b"cat", num_bytes=30)))
    assert engine.scheduler.stats.encoder_pinned_bytes == 30
    engine.scheduler.reset_encoder_cache()
    engine.finish()
    assert_answered(engine, [other, asked])


def test_what_is_held_while_waiting_comes_back_when_it_is_aborted() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=1, prefix_caching=False))
    engine.add(with_items("a", b"cat"))
    engine.finish()
    engine.add(request("b", range(9)), by_key_only(with_items("c", b"cat")))
    engine.abort("c")
    assert engine.scheduler.stats.encoder_pinned_bytes == 0
    engine.finish()


def test_two_that_each_hold_what_the_other_lacks_room_for_both_end() -> None:
    """Each needs 40 bytes more beside the 40 it holds: 160 of 100, were both to wait for it."""
    engine = StandInEngine(scheduler_config(prefix_caching=False))
    engine.add(with_items("a", b"cat", b"dog", num_bytes=40))
    engine.finish()
    both = []
    for name, held, other in (("b", b"cat", b"emu"), ("c", b"dog", b"fox")):
        asked = with_items(name, held, other, num_bytes=40)
        items = (replace(asked.items[0], features={}), asked.items[1])
        both.append(replace(asked, items=items))
    engine.add(*both)
    assert engine.scheduler.stats.encoder_pinned_bytes == 40, "the second waits holding none"
    engine.finish()
    assert engine.last("b").finish_reason == "length"
    assert engine.last("c").finish_reason in ("length", "error")
    assert engine.last("c").lost_item == (engine.last("c").finish_reason == "error")
    assert engine.scheduler.stats.encoder_pinned_bytes == 0


def test_pages_stand_in_for_an_embedding_that_is_gone() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(with_items("a", b"cat", tail=4))
    engine.finish()
    engine.scheduler.reset_encoder_cache()
    engine.add(asked := by_key_only(with_items("b", b"cat", tail=4)))
    engine.finish()
    assert engine.last("b").num_encoder_hits == engine.last("b").num_encoded_items == 0
    assert_answered(engine, [asked])
    assert engine.scheduler.reset_prefix_cache()
    with pytest.raises(CacheMissError):
        engine.scheduler.add(by_key_only(with_items("c", b"cat", tail=4)))


def test_pages_that_go_while_their_request_waits_end_it() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=1, num_pages=16))
    engine.add(with_items("a", b"cat", tail=4))
    engine.finish()
    engine.scheduler.reset_encoder_cache()
    engine.add(other := request("b", range(40), max_tokens=24))
    engine.add(by_key_only(with_items("c", b"cat", tail=4)))
    engine.finish()
    assert engine.last("c").finish_reason == "error"
    assert engine.last("c").lost_item
    assert_answered(engine, [other])


def test_an_embedding_that_goes_while_its_request_waits_ends_it() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=1, prefix_caching=False))
    engine.add(with_items("a", b"cat"))
    engine.finish()
    engine.add(other := with_items("b", b"dog", num_bytes=90))
    engine.add(by_key_only(with_items("c", b"cat")))
    engine.finish()
    assert engine.last("c").finish_reason == "error"
    assert engine.last("c").lost_item
    assert engine.last("c").error == "cache miss for scent at index 0, uuid its cat: send its data."
    assert_answered(engine, [other])


def test_who_could_not_get_all_its_room_beside_what_is_held_waits_holding_nothing() -> None:
    engine = StandInEngine(scheduler_config(prefix_caching=False))
    engine.add(with_items("a", b"cat", num_bytes=30))
    engine.finish()
    engine.add(holder := by_key_only(with_items("b", b"cat", num_bytes=30, max_tokens=9)))
    engine.step()
    engine.add(late := with_items("c", b"emu", num_bytes=90))
    engine.step()
    stats = engine.scheduler.stats
    assert (stats.num_running, stats.num_waiting) == (1, 1), "30 and 90 bytes exceed 100"
    assert stats.encoder_pinned_bytes == 30
    engine.finish()
    assert_answered(engine, [holder, late])


def test_a_failed_encoding_also_ends_those_who_cannot_make_it_again() -> None:
    engine = StandInEngine(scheduler_config(prefix_caching=False, max_num_batched_tokens=40))
    engine.add(with_items("a", b"cat"))
    engine.finish()
    engine.add(with_items("b", b"cat"), by_key_only(with_items("c", b"cat")))
    # As when an earlier arrival, gone by now, needed the room that "c" held while it waited.
    engine.scheduler._pins.unpin_all(engine.scheduler._sequences["c"])
    engine.scheduler.reset_encoder_cache()
    batch = engine.scheduler.schedule()
    assert [task.request_id for task in batch.encode] == ["b"]
    assert set(chunk_sizes(batch)) == {"b", "c"}
    engine.runner.step(batch)
    news = engine.scheduler.process(batch, StepOutput(failed={"b": "Broken."}))
    assert {update.request_id: update.finish_reason for update in news} == {
        "b": "error",
        "c": "error",
    }
    engine.finish()


# --- aborts and failures -------------------------------------------------------------------


def test_abort_waiting_running_and_unknown() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=1))
    engine.add(request("a", range(9), max_tokens=9), request("b", range(9)))
    engine.step()
    engine.abort("a", "b", "nobody", "a")
    assert engine.answer("a")[1] == engine.answer("b")[1] == "abort"
    assert engine.step().ended == ("a",)
    engine.finish()


def test_abort_between_schedule_and_process() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(with_items("a", b"cat"), other := request("b", [5, 6]))
    engine.step(abort_meanwhile=["a"])
    assert engine.answer("a") == ([], "abort")
    engine.finish()
    assert_answered(engine, [other])


def test_an_aborted_id_can_be_used_again_at_once() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", range(9), max_tokens=9))
    batch = engine.scheduler.schedule()
    engine.abort("a")
    again = request("a", [4, 4], max_tokens=2)
    engine.add(again)
    assert engine.scheduler.process(batch, engine.runner.step(batch)) == []
    engine.updates.clear()
    batch = engine.step()
    assert (batch.ended, batch.started) == (("a",), (again,))
    engine.finish()
    assert_answered(engine, [again])


def test_a_failed_request_ends_with_its_sentence_and_the_others_go_on() -> None:
    engine = StandInEngine(scheduler_config(), failures=frozenset({("a", 1)}))
    engine.add(request("a", range(5)), other := request("b", [5, 6]))
    engine.finish()
    assert engine.last("a").finish_reason == "error"
    assert engine.last("a").error == "It was made to fail."
    assert_answered(engine, [other])


def test_what_a_failed_request_computed_is_not_found_again() -> None:
    engine = StandInEngine(scheduler_config(), failures=frozenset({("a", 0)}))
    engine.add(with_items("a", b"cat"))
    engine.finish()
    assert not engine.scheduler.has_embedding(b"cat")
    engine.add(asked := with_items("b", b"cat"))
    engine.finish()
    assert engine.last("b").num_cached_tokens == 0
    assert_answered(engine, [asked])


def test_who_still_needs_an_embedding_that_failed_encodes_it_anew() -> None:
    """The one that failed was to encode for both; the other has taken some rows of it."""
    config = scheduler_config(max_num_batched_tokens=20, prefix_caching=False)
    engine = StandInEngine(config)
    engine.add(with_items("a", b"cat"), asked := with_items("b", b"cat"))
    batch = engine.scheduler.schedule()
    assert chunk_sizes(batch) == {"a": 12, "b": 8}
    engine.runner.step(batch)
    engine.scheduler.process(batch, StepOutput(failed={"a": "Its logits are not finite."}))
    assert not engine.scheduler.has_embedding(b"cat")
    batch = engine.step()
    assert (batch.evict, batch.encode[0].request_id) == ((b"cat",), "b")
    engine.finish()
    assert_answered(engine, [asked])


def test_a_step_that_fails_as_a_whole_ends_its_own_requests() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(request("a", [1]), request("b", [2]))
    batch = engine.scheduler.schedule()
    engine.runner.step(batch)
    news = engine.scheduler.process(batch, StepOutput(failed={"a": "Broken.", "b": "Broken."}))
    assert [update.finish_reason for update in news] == ["error", "error"]
    engine.add(asked := request("c", [3]))
    engine.finish()
    assert_answered(engine, [asked])


def test_a_step_that_encodes_is_processed_before_the_next_is_planned() -> None:
    engine = StandInEngine(scheduler_config())
    span = MediaSpan(0, (0, 2), 0, 2)
    engine.add(request("a", [1, 1, 1], items=(item(b"cat", 2),), spans=(span,)))
    batch = engine.scheduler.schedule()
    assert batch.encode
    with pytest.raises(AssertionError, match="items are being encoded"):
        engine.scheduler.schedule()
    engine.scheduler.process(batch, engine.runner.step(batch))
    with pytest.raises(AssertionError, match="before schedule"):
        engine.scheduler.process(batch, StepOutput())


def test_a_step_is_planned_while_the_one_before_runs() -> None:
    engine = StandInEngine(scheduler_config(), depth=1)
    engine.add(request("a", [1, 2, 3], max_tokens=3))
    chunks = [engine.step().chunks for _ in range(4)]
    assert [[c.token_ids for c in step] for step in chunks] == [
        [(1, 2, 3)],
        [(PENDING,)],
        [(PENDING,)],
        [],
    ]
    engine.finish()
    assert engine.answer("a")[1] == "length"


def test_the_answers_to_one_prompt_prefill_it_once() -> None:
    for depth in (0, 1):
        engine = StandInEngine(scheduler_config(max_num_batched_tokens=30), depth=depth)
        prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]
        engine.add(*(request(f"r#{i}", prompt, max_tokens=3) for i in range(4)))
        engine.finish()
        computed = sum(len(c.token_ids) for batch in engine.batches for c in batch.chunks)
        assert computed == 10 + 3 * 2 + 4 * 2, "the full pages once, the rest by each"
        assert [engine.last(f"r#{i}").num_cached_tokens for i in range(4)] == [0, 8, 8, 8]


def test_whoever_waits_for_pages_that_never_come_computes_them() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=4))
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    engine.add(request("a", prompt), request("b", prompt))
    engine.step()
    engine.abort("a")
    engine.finish()
    assert engine.answer("b") == expected_answer(request("b", prompt), engine.runner.config)


def test_lower_priorities_go_first() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=1))
    engine.add(request("late", [1], priority=5), request("first", [2], priority=-1))
    engine.add(request("equal", [3], priority=5))
    order = [batch.started[0].request_id for batch in _until_done(engine) if batch.started]
    assert order == ["first", "late", "equal"]


def test_the_last_in_rank_gives_up_its_pages() -> None:
    engine = StandInEngine(scheduler_config(num_pages=5, prefix_caching=False))
    engine.add(request("low", [1] * 7, max_tokens=6, priority=1))
    engine.step()
    engine.add(request("high", [2] * 7, max_tokens=6))
    engine.finish()
    assert engine.last("low").num_preemptions > 0
    assert engine.last("high").num_preemptions == 0


def _until_done(engine: StandInEngine) -> list[Batch]:
    engine.finish()
    return engine.batches


def test_times_and_ids() -> None:
    engine = StandInEngine(scheduler_config())
    engine.add(asked := request("a", [1, 2], max_tokens=9))
    with pytest.raises(RequestError, match="id 'a' is still running"):
        engine.scheduler.add(replace(asked))
    engine.step()
    first = engine.last("a").first_scheduled_s
    engine.step()
    assert first is not None
    assert engine.last("a").first_scheduled_s == first
    engine.finish()


def test_a_range_seen_both_ways_is_not_put_together_from_two_owners() -> None:
    """Found by the property tests: the range's first pages from one, its last from another."""
    engine = StandInEngine(scheduler_config(page_size=1, max_num_seqs=1))
    span = MediaSpan(0, (0, 2), 1, 9, bytes([0, 1, 1, 0, 0, 0, 0, 0, 0]), non_causal=True)
    asked = [
        request(
            name,
            [0, 1, 0, 0, 0, 0, 0, 0, 0, *rest],
            max_tokens=1,
            items=(item(b"dog", 2),),
            spans=(span,),
        )
        for name, rest in (("a", [0]), ("b", [1]), ("c", [1, 0]))
    ]
    engine.add(*asked)
    engine.finish()
    assert engine.last("c").num_cached_tokens == 10
    assert_answered(engine, asked)
