"""The policy, rule by rule: what is in a step, who ends when, who goes first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from item_requests import assert_answered, chunk_sizes, with_items
from stand_in_runner import StandInEngine, request, scheduler_config

from sensorium.errors import Failure, MediaError, RequestError
from sensorium.scheduler import Scheduler
from sensorium.types import (
    PENDING,
    Batch,
    EngineRequest,
    SampledTokens,
    StepOutput,
    TokenLogprobs,
)

# --- batching ---------------------------------------------------------------------------


def test_a_prompt_is_computed_in_chunks_of_the_budget_then_one_token_at_a_time() -> None:
    engine = StandInEngine(scheduler_config(max_num_batched_tokens=10))
    asked = request("a", range(25), max_tokens=3)
    engine.add(asked)
    engine.finish()
    assert [chunk_sizes(b).get("a") for b in engine.batches] == [10, 10, 5, 1, 1, None]
    assert [c.num_rows for b in engine.batches for c in b.chunks] == [0, 0, 1, 1, 1]
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


# --- the end of a request ---------------------------------------------------------------


def ended_by(
    asked: EngineRequest, tokens: list[int], **limits: int
) -> tuple[int, str | None, int | None]:
    """Feeds ``tokens``; returns how many were taken, the finish reason and the stop id."""
    engine = StandInEngine(scheduler_config(**limits))
    engine.add(asked)
    for count, token in enumerate(tokens, 1):
        batch = engine.scheduler.schedule()
        sampled = SampledTokens(asked.request_id, (token,))
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
    [update] = engine.scheduler.process(batch, StepOutput((SampledTokens("a", (3,), (logprobs,)),)))
    assert update.logprobs == (logprobs,)


# --- a prompt in one step ---------------------------------------------------------------


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


# --- steps ahead of what is known -------------------------------------------------------


def test_nothing_is_processed_that_was_not_scheduled() -> None:
    engine = StandInEngine(scheduler_config())
    with pytest.raises(AssertionError, match="before schedule"):
        engine.scheduler.process(Batch(), StepOutput())


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


# --- order and times --------------------------------------------------------------------


def test_lower_priorities_go_first() -> None:
    engine = StandInEngine(scheduler_config(max_num_seqs=1))
    engine.add(request("late", [1], priority=5), request("first", [2], priority=-1))
    engine.add(request("equal", [3], priority=5))
    order = [batch.started[0].request_id for batch in _until_done(engine) if batch.started]
    assert order == ["first", "late", "equal"]


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


@pytest.mark.parametrize(
    ("failure", "error_class"),
    [("a sentence", "EngineError"), (Failure.of(MediaError("a sentence")), "MediaError")],
)
def test_a_failed_request_is_told_the_class_of_its_error(failure: str, error_class: str) -> None:
    scheduler = Scheduler(scheduler_config())
    scheduler.add(request("a", (1, 2, 3)))
    [update] = scheduler.process(scheduler.schedule(), StepOutput(failed={"a": failure}))
    assert update.finish_reason == "error"
    assert (update.error, update.error_class) == ("a sentence", error_class)
    assert type(update.error) is str, "it crosses to another process as plain text"
