"""Prompts that begin alike share pages, and nothing else does."""

from __future__ import annotations

from item_requests import assert_answered, with_items
from stand_in_runner import StandInEngine, expected_answer, item, request, scheduler_config

from sensorium.types import MediaSpan


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
