"""``AsyncEngine``: an async iterator per request."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from endless import ENDLESS, ROOM

from sensorium import (
    LLM,
    AsyncEngine,
    ConfigError,
    EngineClosedError,
    OverloadedError,
    PoolingParams,
    RequestError,
    RequestOutput,
    SamplingParams,
)
from sensorium.engine.async_engine import last_output
from sensorium.outputs import RequestOutputKind
from sensorium.types import EngineRequest

T = TypeVar("T")
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(text_model: Path):  # type: ignore[no-untyped-def]
    with AsyncEngine(text_model, dtype="float32", **ROOM) as running:
        yield running
        asyncio.run(running.check_integrity())


async def test_outputs_grow_and_end_finished(engine: AsyncEngine) -> None:
    outputs = [output async for output in engine.generate("tell me", GREEDY)]
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 12
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    for earlier, later in itertools.pairwise(outputs):
        assert later.outputs[0].text.startswith(earlier.outputs[0].text)


async def test_leaving_early_aborts(engine: AsyncEngine) -> None:
    stream = engine.generate("a long story", ENDLESS)
    async for output in stream:
        if len(output.outputs[0].token_ids) >= 3:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    assert await engine.reset_prefix_cache() is True, "the aborted request still holds pages"
    await engine.check_integrity()


async def test_cancellation_aborts(engine: AsyncEngine) -> None:
    running = asyncio.Event()

    async def consume() -> None:
        async for _ in engine.generate("cancelled", ENDLESS):
            running.set()

    task = asyncio.create_task(consume())
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await engine.reset_prefix_cache() is True


async def test_an_id_runs_once_at_a_time(engine: AsyncEngine) -> None:
    first = engine.generate("one", ENDLESS, request_id="same")
    await anext(first)
    with pytest.raises(RequestError, match="same"):
        await anext(engine.generate("two", GREEDY, request_id="same"))
    await first.aclose()  # type: ignore[attr-defined]
    last = [o async for o in engine.generate("two", GREEDY, request_id="same")][-1]
    assert last.request_id == "same"
    assert last.outputs[0].finish_reason == "length", "it heard of the first one's end"


def test_several_event_loops(engine: AsyncEngine) -> None:
    async def last_text() -> str:
        outputs = [output async for output in engine.generate("loops", GREEDY)]
        return outputs[-1].outputs[0].text

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(asyncio.run(last_text()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    assert len(set(found)) == 1


async def test_metrics_are_in_order(engine: AsyncEngine) -> None:
    outputs = [output async for output in engine.generate("measured", GREEDY)]
    m = outputs[-1].metrics
    assert m.prepared_s is not None
    assert m.first_scheduled_s is not None
    assert m.first_token_s is not None
    assert m.finished_s is not None
    assert m.arrival_s <= m.prepared_s <= m.first_scheduled_s <= m.first_token_s <= m.finished_s


async def test_closing_while_iterating(text_model: Path) -> None:
    engine = AsyncEngine(text_model, dtype="float32", **ROOM)
    stream = engine.generate("cut", ENDLESS)
    await anext(stream)
    await asyncio.to_thread(engine.close)
    with pytest.raises(EngineClosedError):
        async for _ in stream:
            pass


# --- kinds of outputs ---------------------------------------------------------------------


async def test_deltas_add_up_to_the_whole_and_final_only_comes_once(engine: AsyncEngine) -> None:
    def asked(kind: RequestOutputKind) -> AsyncIterator[RequestOutput]:
        params = replace(GREEDY, n=2, seed=3, temperature=1.0, logprobs=1, output_kind=kind)
        return engine.generate("in pieces", params)

    whole = await last_output(asked(RequestOutputKind.CUMULATIVE))
    [final] = [output async for output in asked(RequestOutputKind.FINAL_ONLY)]
    deltas = [output async for output in asked(RequestOutputKind.DELTA)]
    assert [output.finished for output in deltas] == [False] * (len(deltas) - 1) + [True]
    for one in whole.outputs:
        parts = [a for output in deltas for a in output.outputs if a.index == one.index]
        assert "".join(part.text for part in parts) == one.text == final.outputs[one.index].text
        assert sum((tuple(part.token_ids) for part in parts), ()) == one.token_ids
        assert sum(len(part.logprobs or ()) for part in parts) == len(one.token_ids)
        assert [part.finish_reason for part in parts][-1] == one.finish_reason == "length"


def test_params_of_another_type_get_a_sentence(engine: AsyncEngine, text_model: Path) -> None:
    with pytest.raises(RequestError, match="sampling_params is a dict"):
        engine.generate("x", {"max_tokens": 3})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="pooling_params is a SamplingParams"):
        asyncio.run(engine.embed("x", GREEDY))  # type: ignore[arg-type]


# --- aborting by name ---------------------------------------------------------------------


async def test_abort_ends_a_request_that_runs(engine: AsyncEngine) -> None:
    stream = engine.generate("a long story", replace(ENDLESS, n=2), request_id="told")
    await anext(stream)
    other = asyncio.create_task(last_output(engine.generate("short", GREEDY)))
    await engine.abort(["told", "nobody"])
    rest = [output async for output in stream]
    assert rest[-1].finished
    assert [answer.finish_reason for answer in rest[-1].outputs] == ["abort", "abort"]
    assert (await other).outputs[0].finish_reason == "length"
    await engine.check_integrity()


async def test_abort_ends_a_request_that_is_being_prepared(engine: AsyncEngine) -> None:
    gate, pool = threading.Event(), engine._parts.frontend._text_pool
    for _ in range(2):
        pool.submit(gate.wait)
    params = replace(GREEDY, n=3)
    asked = asyncio.create_task(last_output(engine.generate("x", params, request_id="early")))
    await asyncio.sleep(0)
    assert engine.num_unfinished_requests == 1
    await engine.abort("early")
    output = await asyncio.wait_for(asked, 60)
    gate.set()
    assert output.request_id == "early"
    assert [answer.finish_reason for answer in output.outputs] == ["abort"] * 3
    assert engine.num_unfinished_requests == 0


async def test_abort_before_the_engine_knows(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another thread, between the preparation and the handing over."""
    add = engine._client.add

    def aborted_meanwhile(request: EngineRequest) -> Future[None]:
        asyncio.run(engine.abort("hasty"))
        return add(request)

    monkeypatch.setattr(engine._client, "add", lambda r: run_apart(aborted_meanwhile, r))
    output = await last_output(engine.generate("x", ENDLESS, request_id="hasty"))
    assert output.outputs[0].finish_reason == "abort"


def run_apart(function: Callable[[EngineRequest], T], request: EngineRequest) -> T:
    """What the function returns in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, request).result()


# --- health and places --------------------------------------------------------------------


async def test_more_requests_than_may_wait_are_refused(text_model: Path) -> None:
    options = {"max_num_seqs": 1, "max_queued_requests": 2}
    with AsyncEngine(text_model, dtype="float32", **ROOM, **options) as engine:
        streams = [engine.generate("held", ENDLESS, request_id=f"r{i}") for i in range(3)]
        tasks = [asyncio.create_task(anext(stream)) for stream in streams]
        await tasks[0]
        assert engine.num_unfinished_requests == 3
        with pytest.raises(OverloadedError, match="max_queued_requests lets 2 wait") as caught:
            await last_output(engine.generate("too many", GREEDY))
        assert caught.value.retry_after_s >= 1
        await engine.abort(["r0", "r1", "r2"])
        for task in tasks[1:]:
            assert (await task).outputs[0].finish_reason == "abort"
        for stream in streams:
            assert [output.finished async for output in stream][-1:] in ([True], [])
        served = await last_output(engine.generate("now", GREEDY))
        assert served.outputs[0].finish_reason == "length"
    with pytest.raises(ConfigError, match="max_queued_requests is for AsyncEngine"):
        LLM(text_model, max_queued_requests=2)


async def test_an_engine_is_healthy_until_it_is_closed(text_model: Path) -> None:
    engine = AsyncEngine(text_model, dtype="float32", **ROOM)
    assert engine.is_healthy
    await asyncio.to_thread(engine.close)
    assert not engine.is_healthy


async def test_pooling_params_decide_over_the_length(text_model: Path) -> None:
    with AsyncEngine(text_model, dtype="float32", max_model_len=64, task="embed") as engine:
        raw = (await engine.encode("hello")).outputs.values
        unit = (await engine.embed("hello")).outputs.embedding
        forced = (await engine.encode("hello", PoolingParams(normalize=True))).outputs.values
        plain = (await engine.embed("hello", PoolingParams(normalize=False))).outputs.embedding
        length = math.hypot(*raw)
        assert length != pytest.approx(1, abs=1e-3)
        assert plain == raw
        assert unit == forced
        assert unit == pytest.approx([value / length for value in raw])


async def test_an_embedding_that_is_aborted_is_an_error(text_model: Path) -> None:
    with AsyncEngine(text_model, dtype="float32", max_model_len=64, task="embed") as engine:
        gate, pool = threading.Event(), engine._parts.frontend._text_pool
        for _ in range(2):
            pool.submit(gate.wait)
        asked = asyncio.create_task(engine.embed("hello", request_id="early"))
        await asyncio.sleep(0)
        await engine.abort("early")
        with pytest.raises(RequestError, match="The request early was aborted"):
            await asyncio.wait_for(asked, 60)
        gate.set()


# --- what it counts -----------------------------------------------------------------------


@pytest.mark.parametrize("engine_process", [False, True])
async def test_stats_count_what_was_done(text_model: Path, engine_process: bool) -> None:
    options = {"dtype": "float32", "engine_process": engine_process, **ROOM}
    engine = AsyncEngine(text_model, **options)
    prompt = list(range(5, 45))
    outputs = [await last_output(engine.generate(prompt, GREEDY)) for _ in range(2)]
    stream = engine.generate(prompt, ENDLESS, request_id="held")
    held = await anext(stream)
    now = await engine.stats()
    assert now.is_healthy
    assert (now.num_running, now.num_waiting, now.num_unfinished_requests) == (1, 0, 1)
    assert 0 < now.num_used_kv_pages <= now.num_kv_pages
    await engine.abort("held")
    last = [output async for output in stream][-1] if not held.finished else held
    done = await engine.stats()
    assert done.num_ended == {"length": 2, "abort": 1}
    assert done.num_prompt_tokens == 3 * len(prompt)
    assert done.num_prefix_hits == outputs[1].num_cached_tokens + last.num_cached_tokens > 0
    num_streamed = len(last.outputs[0].token_ids)
    assert done.num_generated_tokens == 2 * GREEDY.max_tokens + num_streamed
    assert done.step_s.count > 12
    assert done.step_s.total > 0
    assert (done.num_running, done.num_used_kv_pages, done.num_unfinished_requests) == (0, 0, 0)
    assert (done.num_restarts, done.num_preemptions) == (0, 0)
    await asyncio.to_thread(engine.close)
    with pytest.raises(EngineClosedError):
        await engine.stats()
