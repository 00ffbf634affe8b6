"""``AsyncEngine``: an async iterator per request."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path

import pytest
from endless import ENDLESS, ROOM

from sensorium import AsyncEngine, EngineClosedError, RequestError, SamplingParams

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
    async def consume() -> None:
        async for _ in engine.generate("cancelled", ENDLESS):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.2)
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
