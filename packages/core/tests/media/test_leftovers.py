"""What requests gave up, or failed with, is freed at once: neither a cycle of references nor the
error in its caller's hands keeps it.

The budget counts such bytes as returned. Exceptions refer to frames, and frames to files and
decoded values; where a frame refers back to the exception, only the garbage collector frees them,
thousands of requests later.
"""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpcore2
import pytest
import torch
from hostile_server import HostileServer, answer

from sensorium.errors import LimitError, MediaError, PluginError, RequestError
from sensorium.media.fetch.policy import FetchPolicy
from sensorium.media.maker import Making
from sensorium.media.memory import MemoryBudget, MustWait
from sensorium.types import BytesSource, Loaded, MediaPlan, Source

if TYPE_CHECKING:
    from conftest import Bench

Make = Callable[..., "Bench"]


class Decoded(str):
    """What the kind decodes to: an object that the test finds again."""

    __slots__ = ()


class Features(torch.Tensor):
    """Features that the test finds again."""


#: what is large, or refers to something large
LARGE = (Decoded, Features, BytesSource, MustWait, httpcore2.Response)


@pytest.fixture
def one(
    bench: Make, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Bench]:
    """A pipeline with a small budget, whose decoded values and features can be found again; the
    garbage collector is off."""
    made = bench(
        memory=MemoryBudget(1000),
        fetch_policy=FetchPolicy(private=True),
        limits={"note": None},
        cache_bytes=getattr(request, "param", 0),
    )
    load, process = made.kind.load, made.adapter.process

    def load_found(sources: Sequence[Source]) -> Loaded:
        loaded = load(sources)
        return Loaded(Decoded(loaded.value), loaded.shape)

    def process_found(loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]) -> Any:
        codes = process(loaded, plan, options)["reader"]["codes"]
        if "large" in loaded.value:  # larger than the whole budget
            codes = codes.repeat(100)
        return {"reader": {"codes": codes.as_subclass(Features)}}

    monkeypatch.setattr(made.kind, "load", load_found)
    monkeypatch.setattr(made.adapter, "process", process_found)
    gc.collect()
    gc.freeze()  # what is there already isn't searched
    gc.disable()
    yield made
    gc.enable()
    gc.unfreeze()


def left() -> list[str]:
    """The types of the large objects that are alive."""
    return [type(found).__name__ for found in gc.get_objects() if is_large(found)]


def is_large(found: object) -> bool:
    if type(found) is io.BytesIO:
        return not found.closed and found.getbuffer().nbytes > 0
    return isinstance(found, LARGE) or (isinstance(found, Making) and len(found.sources) > 0)


async def assert_nothing_left() -> None:
    """Waits until threads that have finished have also let go."""
    for _ in range(100):
        if not left():
            break
        await asyncio.sleep(0.02)
    assert left() == []


def untold(body: bytes) -> Callable[..., None]:
    """An answer that doesn't say how long it is."""
    coded = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return lambda _, connection: connection.sendall(head + coded)


async def prepare_and_end(one: Bench, *texts: str) -> list[str]:
    """The texts that a request's features hold; the request ends."""
    media = await one.pipeline.prepare(one.items(*texts))
    media.release()
    return ["".join(map(chr, item.features["reader"]["codes"].tolist())) for item in media.items]


async def test_requests_that_wait_hold_nothing(one: Bench) -> None:
    memory = one.pipeline.memory
    with HostileServer() as server:
        server.scripts["/told"] = answer(b"t" * 45)
        server.scripts["/untold"] = untold(b"u" * 45)
        server.scripts["/small"] = answer(b"s" * 15)
        given = {
            (server.url("/told"),): ["t" * 45],
            (server.url("/untold"),): ["u" * 45],
            (server.url("/small"),): ["s" * 15],  # it is fetched, and waits to be decoded
            ("data:," + "d" * 45,): ["d" * 45],
            ("v" * 10,): ["v" * 10],
            ("ab", server.url("/small"), "w" * 10): ["ab", "s" * 15, "w" * 10],
        }
        oldest = memory.lease()
        await oldest.begin()
        assert oldest.claim().try_take(960)
        made = [asyncio.create_task(prepare_and_end(one, *texts)) for texts in given]
        while memory.stats.num_waiting < len(given):
            await asyncio.sleep(0.001)
        await assert_nothing_left()
        assert memory.stats.used_bytes == 960
        oldest.release()
        assert await asyncio.gather(*made) == list(given.values())
    await assert_nothing_left()
    assert memory.stats.used_bytes == 0


async def test_a_request_that_waited_where_it_stands_leaves_nothing(one: Bench) -> None:
    memory = one.pipeline.memory
    held = memory.lease()
    await held.begin()
    held.claim().settle(object(), 600)
    held.finish()
    with HostileServer() as server:
        server.scripts["/small"] = answer(b"s" * 45)
        server.scripts["/other"] = untold(b"o" * 45)
        texts = [server.url("/small"), server.url("/other")]
        made = asyncio.create_task(prepare_and_end(one, *texts, "v" * 45))
        while not any(lease._wants for lease in list(memory._preparing.values())):
            assert not made.done(), "it was to wait for what the other request holds"
            await asyncio.sleep(0.001)
        held.release()
        assert await made == ["s" * 45, "o" * 45, "v" * 45]
    await assert_nothing_left()


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["ab", "broken!"], MediaError, "note 1: it can't be read as note"),
        (["data:,broken!"], MediaError, "note 0: it can't be read as note"),
        (["ab", "?"], PluginError, "raised ZeroDivisionError"),
        (["l" * 51], MediaError, "note 0: a note has at most 50 characters"),
        (["ab", "/broken"], MediaError, "note 1: it can't be read as note"),
        (["ab", "/long"], LimitError, "note 1: it has more than the 64 bytes"),
        (["/cut"], MediaError, "note 0: the connection to .* ended before the answer"),
        (["ab", "x" * 101], LimitError, "note 1: it takes 1010 bytes once decoded"),
    ],
)
async def test_an_error_holds_no_media(
    one: Bench, texts: list[str], error: type[Exception], message: str
) -> None:
    with HostileServer() as server:
        server.scripts["/broken"] = answer(b"broken!")
        server.scripts["/long"] = untold(b"x" * 65)
        server.scripts["/cut"] = answer(b"x" * 30, headers={"Content-Length": "60"})
        given = [server.url(text) if text.startswith("/") else text for text in texts]
        with pytest.raises(error, match=message) as caught:
            await one.pipeline.prepare(one.items(*given))
        await assert_nothing_left()
    assert isinstance(caught.value, (RequestError, PluginError))
    assert one.pipeline.memory.stats.used_bytes == 0


@pytest.mark.parametrize("one", [0, 2**20], indirect=True, ids=["no cache", "cached"])
async def test_an_error_holds_no_features_that_could_never_fit(one: Bench) -> None:
    """Only when they are made, or found in the cache, are they known to be so large."""
    kept = []
    for _ in range(2):
        with pytest.raises(LimitError, match=r"note 0: .* media_memory_gb allows 1000") as caught:
            await one.pipeline.prepare(one.items("large"))
        kept.append(caught.value)
    one.pipeline.reset()
    await assert_nothing_left()
    assert one.pipeline.memory.stats.used_bytes == 0
    one.pipeline.memory.check_integrity()
