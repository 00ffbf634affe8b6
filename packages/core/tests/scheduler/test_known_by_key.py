"""Items whose embeddings can't be made again, since only their keys are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from item_requests import assert_answered, chunk_sizes, with_items
from stand_in_runner import StandInEngine, request, scheduler_config

from sensorium.errors import CacheMissError
from sensorium.types import EngineRequest, StepOutput


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


@pytest.mark.parametrize(("num_bytes", "is_lost"), [(100, True), (120, False)])
def test_two_that_each_hold_what_the_other_lacks_room_for_both_end(
    num_bytes: int, is_lost: bool
) -> None:
    """Each needs 40 bytes more beside the 40 it holds: 160, were both to wait for it. What the
    second held makes room for the first, where there is none beside it."""
    engine = StandInEngine(scheduler_config(prefix_caching=False, encoder_cache_bytes=num_bytes))
    engine.add(with_items("a", b"cat", b"dog", num_bytes=40))
    engine.finish()
    both = []
    for name, held, other in (("b", b"cat", b"emu"), ("c", b"dog", b"fox")):
        asked = with_items(name, held, other, num_bytes=40)
        items = (replace(asked.items[0], features={}), asked.items[1])
        both.append(replace(asked, items=items))
    engine.add(*both)
    held_bytes = 40 if is_lost else 80
    assert engine.scheduler.stats.encoder_pinned_bytes == held_bytes, "without room, only the first"
    engine.finish()
    assert_answered(engine, both[:1] if is_lost else both)
    if is_lost:
        assert engine.answer("c") == ([], "error")
        assert engine.last("c").lost_item
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
