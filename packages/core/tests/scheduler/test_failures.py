"""Aborts and failures: nothing is lost, and nobody else is touched."""

from __future__ import annotations

from item_requests import assert_answered, chunk_sizes, with_items
from stand_in_runner import StandInEngine, request, scheduler_config

from sensorium.types import StepOutput


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
