"""Streams: a step's updates reach each loop in one call, and a reader wakes when it has cause."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from sensorium.engine.streams import Stream, Streams
from sensorium.errors import (
    CacheMissError,
    EngineDeadError,
    EngineError,
    LimitError,
    MediaError,
    PluginError,
    RequestError,
)
from sensorium.output import RequestState
from sensorium.outputs import RequestMetrics, RequestOutputKind
from sensorium.sampling_params import SamplingParams
from sensorium.types import RequestUpdate


class NoTokenizer:
    """Nothing is made into text here."""

    special_ids: frozenset[int] = frozenset()


def state(request_id: str, kind: RequestOutputKind) -> RequestState:
    return RequestState(
        request_id=request_id,
        prompt=None,
        prompt_token_ids=(1,),
        sampling=SamplingParams(detokenize=False, output_kind=kind),
        tokenizer=NoTokenizer(),  # type: ignore[arg-type]
        metrics=RequestMetrics(),
        child_ids=[request_id],
    )


def opened(
    streams: Streams, request_id: str, kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
) -> Stream:
    return streams.open(state(request_id, kind), lambda ids: None)


async def test_a_loop_is_called_once_however_many_updates_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = Streams()
    mine = [opened(streams, f"r{i}") for i in range(8)]
    loop, calls = asyncio.get_running_loop(), []
    original = loop.call_soon_threadsafe

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    for step in range(3):
        streams.deliver([RequestUpdate(f"r{i}", (step,)) for i in range(8)])
    streams.deliver([RequestUpdate("nobody", (1,))])
    assert len(calls) == 1
    for stream in mine:
        await stream.news()
        assert stream.state.output().outputs[0].token_ids == (0, 1, 2)
    streams.deliver([RequestUpdate("r0", (3,))])
    assert len(calls) == 2


async def test_a_reader_of_the_last_output_sleeps_until_then() -> None:
    streams = Streams()
    stream = opened(streams, "r", RequestOutputKind.FINAL_ONLY)
    reader = asyncio.create_task(stream.news())
    streams.deliver([RequestUpdate("r", (1,))])
    for _ in range(3):  # the reader waits, the update is delivered, the reader would wake
        await asyncio.sleep(0)
    assert stream.state.output().outputs[0].token_ids == (1,), "it was not delivered"
    assert not reader.done()
    streams.deliver([RequestUpdate("r", (2,), finish_reason="length")])
    await asyncio.wait_for(reader, 1)
    assert stream.state.output().outputs[0].token_ids == (1, 2)


@pytest.mark.parametrize("kind", list(RequestOutputKind))
async def test_what_ends_a_request_is_raised(kind: RequestOutputKind) -> None:
    streams = Streams()
    failed, lost, dead = (opened(streams, name, kind) for name in ("failed", "lost", "dead"))
    streams.deliver(
        [
            RequestUpdate("failed", finish_reason="error", error="the step"),
            RequestUpdate("lost", finish_reason="error", error="gone", lost_item=True),
        ]
    )
    with pytest.raises(EngineError, match="the step"):
        await failed.news()
    with pytest.raises(CacheMissError, match="gone") as caught:
        await lost.news()
    assert caught.value.retryable
    streams.end(EngineDeadError("it died"), None)
    with pytest.raises(EngineDeadError, match="it died"):
        await dead.news()


async def test_a_name_is_taken_until_its_stream_is_closed() -> None:
    streams = Streams()
    first = opened(streams, "same")
    with pytest.raises(RequestError, match="same"):
        opened(streams, "same")
    streams.close(first)
    second = opened(streams, "same")
    streams.deliver([RequestUpdate("same", (5,))])
    await second.news()
    assert first.state.output().outputs[0].token_ids == ()


def test_a_loop_that_has_ended_is_forgotten() -> None:
    streams = Streams()

    async def one() -> tuple[Stream, weakref.ref[asyncio.AbstractEventLoop]]:
        return opened(streams, "r"), weakref.ref(asyncio.get_running_loop())

    stream, loop = asyncio.run(one())
    streams.deliver([RequestUpdate("r", (1,))])
    streams.close(stream)
    del stream
    gc.collect()
    assert loop() is None


async def test_only_the_requests_that_a_dead_engine_had_end_with_it() -> None:
    streams = Streams()
    lost, added_since = opened(streams, "lost"), opened(streams, "since")
    streams.end(EngineDeadError("it died"), {"lost", "nobody"})
    streams.deliver([RequestUpdate("since", (1,), finish_reason="length")])
    with pytest.raises(EngineDeadError, match="it died"):
        await lost.news()
    await added_since.news()
    assert added_since.state.finished


@pytest.mark.parametrize("kind", [MediaError, LimitError, PluginError, EngineError])
async def test_an_error_is_of_the_class_that_the_engine_names(kind: type[Exception]) -> None:
    streams = Streams()
    stream = opened(streams, "r")
    update = RequestUpdate("r", finish_reason="error", error="bad", error_class=kind.__name__)
    streams.deliver([update])
    with pytest.raises(kind, match="bad") as caught:
        await stream.news()
    assert type(caught.value) is kind


async def test_a_class_that_nobody_knows_is_an_engine_error() -> None:
    streams = Streams()
    stream = opened(streams, "r")
    streams.deliver([RequestUpdate("r", finish_reason="error", error="x", error_class="KeyError")])
    with pytest.raises(EngineError, match="x"):
        await stream.news()
