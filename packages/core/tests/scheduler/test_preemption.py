"""Who gives up pages and embeddings, to whom, and how it goes on."""

from __future__ import annotations

import pytest
from item_requests import assert_answered, chunk_sizes, with_items
from stand_in_runner import StandInEngine, item, request, scheduler_config

from sensorium.types import EngineRequest, MediaSpan


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


def test_the_last_in_rank_gives_up_its_pages() -> None:
    engine = StandInEngine(scheduler_config(num_pages=5, prefix_caching=False))
    engine.add(request("low", [1] * 7, max_tokens=6, priority=1))
    engine.step()
    engine.add(request("high", [2] * 7, max_tokens=6))
    engine.finish()
    assert engine.last("low").num_preemptions > 0
    assert engine.last("high").num_preemptions == 0
