"""The pipeline's order: limits first, then look up, and work only where nothing was found."""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hostile_server import HostileServer, Request, answer

from sensorium.errors import (
    CacheMissError,
    ConfigError,
    EngineClosedError,
    LimitError,
    MediaError,
    PluginError,
    RequestError,
)
from sensorium.media.fetch.policy import FetchPolicy
from sensorium.media.memory import MemoryBudget
from sensorium.media.pipeline import MediaPipeline, PreparedMedia
from sensorium.types import MediaItem, PreparedItem, ValueSource

if TYPE_CHECKING:
    from conftest import Bench

Make = Callable[..., "Bench"]


def note_url(text: str) -> str:
    return "data:text/plain;base64," + base64.b64encode(text.encode()).decode()


def codes(item: PreparedItem) -> str:
    return "".join(map(chr, item.features["reader"]["codes"].tolist()))


async def test_items_come_in_order_with_their_features(bench: Make) -> None:
    one = bench()
    media = await one.pipeline.prepare(one.items("abc", note_url("de"), "f"))
    assert [codes(item) for item in media.items] == ["abc", "de", "f"]
    assert [(item.kind, item.index) for item in media.items] == [("note", i) for i in range(3)]
    assert [item.plan.num_tokens for item in media.items] == [3, 2, 1]
    assert len({item.key for item in media.items}) == 3
    assert media.num_hits == 0
    assert all(item.features["reader"]["codes"].dtype == torch.int32 for item in media.items)


async def test_no_items(bench: Make) -> None:
    assert await bench().pipeline.prepare([]) == PreparedMedia()


async def test_equal_content_is_decoded_once(bench: Make) -> None:
    one = bench()
    first = await one.pipeline.prepare(one.items("abc", "abc", note_url("abc")))
    again = await one.pipeline.prepare(one.items("abc"))
    assert one.kind.calls == {"digest": 4, "probe": 1, "load": 1}
    assert one.adapter.calls == {"plan": 1, "process": 1}
    assert (first.num_hits, again.num_hits) == (2, 1)
    assert len({item.key for item in (*first.items, *again.items)}) == 1
    assert [item.index for item in first.items] == [0, 1, 2]


async def test_salt_and_options_are_part_of_the_key(bench: Make) -> None:
    one = bench()
    plain = await one.pipeline.prepare(one.items("abc"))
    salted = await one.pipeline.prepare(one.items("abc"), salt="tenant")
    louder = await one.pipeline.prepare(one.items("abc"), processor_kwargs={"gain": 2})
    default = await one.pipeline.prepare(one.items("abc"), processor_kwargs={"gain": 1})
    keys = [media.items[0].key for media in (plain, salted, louder, default)]
    assert len(set(keys)) == 3
    assert keys[0] == keys[3]
    assert louder.items[0].features["reader"]["codes"].tolist() == [2 * ord(c) for c in "abc"]


# --- uuids -----------------------------------------------------------------------------


async def test_a_known_uuid_needs_no_data_and_no_work(bench: Make) -> None:
    one = bench()
    first = await one.pipeline.prepare(one.items("abc", uuids=["u"]))
    assert one.kind.calls["digest"] == 0, "a uuid replaces the digest"
    one.kind.calls.clear()
    again = await one.pipeline.prepare(one.items(None, uuids=["u"]))
    broken = await one.pipeline.prepare(one.items("data:not even fetched", uuids=["u"]))
    assert one.kind.calls == {}
    assert again.items[0].key == first.items[0].key == broken.items[0].key
    assert again.num_hits == broken.num_hits == 1
    assert codes(again.items[0]) == "abc"


async def test_none_falls_back_to_the_content(bench: Make) -> None:
    one = bench()
    by_content = await one.pipeline.prepare(one.items("abc"))
    mixed = await one.pipeline.prepare(one.items("abc", "abc", uuids=["u", None]))
    assert mixed.items[1].key == by_content.items[0].key
    assert mixed.items[0].key != mixed.items[1].key


async def test_a_single_uuid_may_stand_alone(bench: Make) -> None:
    one = bench()
    (item,) = one.pipeline.split({"note": "abc"}, {"note": "u"})
    assert item.uuid == "u"
    assert one.items("abc", uuids=None)[0].uuid is None
    assert one.pipeline.split({"note": "abc"}, {"note": None})[0].uuid is None


@pytest.mark.parametrize("change", [{"salt": "other"}, {"processor_kwargs": {"gain": 3}}])
async def test_a_uuid_holds_within_salt_and_options(bench: Make, change: Any) -> None:
    one = bench()
    await one.pipeline.prepare(one.items("abc", uuids=["u"]))
    with pytest.raises(CacheMissError) as caught:
        await one.pipeline.prepare(one.items("x", None, uuids=[None, "u"]), **change)
    assert str(caught.value).startswith("cache miss for note at index 1, uuid u")


async def test_data_left_out_without_uuid(bench: Make) -> None:
    one = bench()
    with pytest.raises(RequestError, match="note 1: neither data nor a uuid"):
        await one.pipeline.prepare(one.items("a", None))
    assert one.kind.calls == {}


async def test_uuids_ignored(bench: Make) -> None:
    one = bench(uuids_ignored=True, cache_bytes=0)
    assert [item.uuid for item in one.items("a", uuids=["u", "too many"])] == [None]
    given = MediaItem("note", 0, (ValueSource("abc"),), uuid="u")
    media = await one.pipeline.prepare([given])
    assert media.items[0].key == (await one.pipeline.prepare(one.items("abc"))).items[0].key
    with pytest.raises(RequestError, match="note 0: no data were given, and uuids are ignored"):
        await one.pipeline.prepare([MediaItem("note", 0, uuid="u")])


@pytest.mark.parametrize(
    ("data", "uuids", "message"),
    [
        ({"note": ["a", "b"]}, {"note": ["u"]}, r"\['note'\] has 1 entries for the 2 items"),
        ({"note": ["a"]}, {"note": ["u", None]}, r"\['note'\] has 2 entries for the 1 items"),
        ({"note": ["a"]}, {}, "holds note, which multi_modal_uuids does not name"),
        ({}, {"note": ["u"]}, "names note, which multi_modal_data does not hold"),
        ({"note": ["a"]}, {"note": [3]}, "note 0: its uuid is a int"),
        ({"note": ["a"]}, {"note": [""]}, "note 0: its uuid is an empty text"),
        ({"note": ["a"]}, {"note": {"a": 1}}, r"\['note'\] is a dict"),
    ],
)
def test_uuids_that_do_not_fit(bench: Make, data: Any, uuids: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        bench().pipeline.split(data, uuids)


# --- limits ----------------------------------------------------------------------------


async def test_too_many_items(bench: Make) -> None:
    one = bench(limits={"note": 2})
    with pytest.raises(LimitError, match=r"has 3 note items; limit_mm_per_prompt allows 2"):
        one.items("a", "b", "c", uuids=["wrong length"])
    items = [MediaItem("note", i, (ValueSource("x"),)) for i in range(3)]
    with pytest.raises(LimitError, match="has 3 note items"):
        await one.pipeline.prepare(items)
    assert one.kind.calls == {}
    assert len(bench(limits={"note": None}).items(*"abcdefgh")) == 8
    with pytest.raises(LimitError, match="has 5 note items; limit_mm_per_prompt allows 4"):
        bench().items(*"abcde")
    with pytest.raises(LimitError, match="has 1 note items; limit_mm_per_prompt allows 0"):
        bench(limits={"note": 0}).items("a")


async def test_too_large_is_told_before_decoding(bench: Make) -> None:
    one = bench()
    with pytest.raises(LimitError, match=r"note 1: it takes 1010 bytes .* at most 1000"):
        await one.pipeline.prepare(one.items("a", "x" * 101))
    with pytest.raises(LimitError, match=r"note 0: its 65 bytes are more than the 64 allowed"):
        await one.pipeline.prepare(one.items(note_url("x" * 65)))
    assert one.kind.calls["load"] <= 1


async def test_the_items_of_a_request_share_a_budget(bench: Make) -> None:
    one = bench(max_request_bytes=100)
    with pytest.raises(LimitError, match="bytes once decoded; at most 100 are allowed"):
        await one.pipeline.prepare(one.items("abcd", "efgh", "ijkl"))
    await one.pipeline.prepare(one.items("abcd", "abcd", "abcd", "efghij"))


# --- refusals --------------------------------------------------------------------------


def test_kinds_the_model_does_not_take(bench: Make) -> None:
    def registry(name: str) -> object:
        if name == "known":
            return object
        raise PluginError(f"nobody serves {name}")

    one = bench(find_kind=registry)
    with pytest.raises(RequestError, match="TestModel takes no known items; it takes note"):
        one.pipeline.split({"known": "x"})
    with pytest.raises(PluginError, match="nobody serves other"):
        one.pipeline.split({"other": "x"})
    with pytest.raises(PluginError, match="No installed plugin serves media of the kind 'other'"):
        bench().pipeline.split({"other": "x"})


def test_a_model_without_media() -> None:
    pipeline = MediaPipeline(
        {},
        {},
        limits={},
        processor_kwargs={},
        cache_bytes=0,
        num_threads=1,
        uuids_ignored=False,
        find_kind=lambda name: None,
    )
    assert pipeline.split({}, None) == []
    with pytest.raises(RequestError, match="takes no note items; it takes text alone"):
        pipeline.split({"note": "a"})
    with pytest.raises(RequestError, match="mm_processor_kwargs has 'gain'; none are allowed"):
        asyncio.run(pipeline.prepare([], processor_kwargs={"gain": 1}))
    pipeline.close()


async def test_processor_options(bench: Make) -> None:
    one = bench(processor_kwargs={"gain": 2})
    media = await one.pipeline.prepare(one.items("a"))
    assert media.items[0].features["reader"]["codes"].tolist() == [2 * ord("a")]
    with pytest.raises(RequestError, match="has 'gian'; allowed are gain"):
        await one.pipeline.prepare([], processor_kwargs={"gian": 1})
    with pytest.raises(RequestError, match="gain is 0"):
        await one.pipeline.prepare([], processor_kwargs={"gain": 0})
    with pytest.raises(ConfigError, match="has 'gian'; allowed are gain"):
        bench(processor_kwargs={"gian": 1})
    with pytest.raises(ConfigError, match="gain is 0"):
        bench(processor_kwargs={"gain": 0})


async def test_damaged_media_are_the_callers_fault(
    bench: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = bench()
    with caplog.at_level(logging.DEBUG, "sensorium"), pytest.raises(MediaError) as caught:
        await one.pipeline.prepare(one.items("a", "b!"))
    assert str(caught.value) == ("note 1: it can't be read as note: damaged, or not supported."), (
        "the library's own words may hold addresses"
    )
    assert "0x7fff1234" in caplog.text, "whoever debugs sees the cause"
    with pytest.raises(MediaError, match="note 0: a note has at most 50 characters"):
        await one.pipeline.prepare(one.items("x" * 51))
    assert (await one.pipeline.prepare(one.items("a"))).items, "the pipeline goes on"


async def test_mistakes_of_plugins_name_them(bench: Make) -> None:
    one = bench()
    with pytest.raises(PluginError, match=r"NoteAdapter\.process of notes raised ZeroDivision"):
        await one.pipeline.prepare(one.items("a?"))
    with pytest.raises(PluginError, match=r"NoteKind\.split of notes raised AttributeError"):
        one.pipeline.split({"note": [3]})


async def test_one_bad_item_does_not_hang_the_request(bench: Make) -> None:
    one = bench(num_threads=1)
    one.kind.gate.clear()
    task = asyncio.create_task(one.pipeline.prepare(one.items("a!", "b", "c", "d")))
    await asyncio.sleep(0.05)
    one.kind.gate.set()
    with pytest.raises(MediaError, match="note 0"):
        await asyncio.wait_for(task, 10)
    one.pipeline._executor.submit(lambda: None).result(30)  # the thread has ended what it began
    assert one.pipeline._maker.flights._flights == {}


# --- caches and concurrency ------------------------------------------------------------


async def test_the_cache_is_bounded_and_counts(bench: Make) -> None:
    one = bench(cache_bytes=5000)
    for name in "abcdefgh":
        media = await one.pipeline.prepare(one.items(name * 40))
        stats = one.pipeline.stats
        assert 0 < stats.num_bytes <= stats.max_bytes == 5000
    assert stats.num_entries < 8
    assert one.pipeline._cache.get_plan(media.items[0].key) is not None
    assert (await one.pipeline.prepare(one.items("h" * 40))).num_hits == 1
    assert (await one.pipeline.prepare(one.items("a" * 40))).num_hits == 0
    one.pipeline.reset()
    assert one.pipeline.stats.num_entries == 0
    assert (await one.pipeline.prepare(one.items("h" * 40))).num_hits == 0


async def test_without_a_cache_everything_still_works(bench: Make) -> None:
    one = bench(cache_bytes=0)
    for _ in range(2):
        media = await one.pipeline.prepare(one.items("abc"))
        assert codes(media.items[0]) == "abc"
    assert one.kind.calls["load"] == 2
    with pytest.raises(CacheMissError):
        await one.pipeline.prepare(one.items(None, uuids=["u"]))


async def test_an_item_is_made_before_the_next_one_is_read(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the device would have nothing to do until all of many requests' media were read."""
    one = bench(num_threads=1)
    steps: list[str] = []
    for of, name in ((one.kind, "digest"), (one.kind, "load"), (one.adapter, "process")):
        monkeypatch.setattr(of, name, _noted(steps, getattr(of, name)))
    await one.pipeline.prepare(one.items("abc", "de"))
    assert steps == ["digest", "load", "process"] * 2


def _noted(steps: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        steps.append(function.__name__)
        return function(*args)

    return call


@pytest.mark.parametrize("uuids", [None, ["u"]])
async def test_concurrent_requests_share_the_work(bench: Make, uuids: Any) -> None:
    one = bench()
    one.kind.gate.clear()
    tasks = [
        asyncio.create_task(one.pipeline.prepare(one.items("abc", uuids=uuids))) for _ in range(4)
    ]
    await asyncio.to_thread(one.kind.started.acquire, timeout=100)
    await asyncio.sleep(0.05)
    tasks[0].cancel()
    one.kind.gate.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert all(isinstance(media, PreparedMedia) for media in done[1:])
    assert one.kind.calls["load"] == one.adapter.calls["process"] == 1
    assert one.pipeline._maker.flights._flights == {}


async def test_a_uuid_alone_finds_what_is_just_being_made(bench: Make) -> None:
    one = bench()
    one.kind.gate.clear()
    first = asyncio.create_task(one.pipeline.prepare(one.items("abc", uuids=["u"])))
    await asyncio.to_thread(one.kind.started.acquire, timeout=100)
    second = asyncio.create_task(one.pipeline.prepare(one.items(None, uuids=["u"])))
    await asyncio.sleep(0.01)
    one.kind.gate.set()
    assert (await first).items[0].key == (await second).items[0].key
    one.kind.gate.clear()
    first = asyncio.create_task(one.pipeline.prepare(one.items("b!", uuids=["v"])))
    await asyncio.to_thread(one.kind.started.acquire, timeout=100)
    second = asyncio.create_task(one.pipeline.prepare(one.items(None, uuids=["v"])))
    await asyncio.sleep(0.01)
    one.kind.gate.set()
    with pytest.raises(MediaError):
        await first
    with pytest.raises(CacheMissError, match="uuid v"):
        await second


async def test_the_loop_stays_free_while_media_are_read(bench: Make) -> None:
    one = bench()
    one.kind.gate.clear()
    task = asyncio.create_task(one.pipeline.prepare(one.items("abc")))
    await asyncio.to_thread(one.kind.started.acquire, timeout=100)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    one.kind.gate.set()
    assert codes((await task).items[0]) == "abc"


def test_several_threads_with_loops_of_their_own(bench: Make) -> None:
    one = bench()
    results: list[PreparedMedia] = []

    def work() -> None:
        results.append(asyncio.run(one.pipeline.prepare(one.items("abc", "de"))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(results) == 4
    assert one.kind.calls["load"] == 2


async def test_close_ends_threads_and_waiting_requests(bench: Make) -> None:
    before = set(threading.enumerate())
    one = bench(num_threads=1)
    one.kind.gate.clear()
    running = asyncio.create_task(one.pipeline.prepare(one.items("a", uuids=["u"])))
    await asyncio.to_thread(one.kind.started.acquire, timeout=100)
    waiting = asyncio.create_task(one.pipeline.prepare(one.items("b", uuids=["v"])))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(asyncio.to_thread(one.pipeline.close))
    with pytest.raises(EngineClosedError):
        await waiting
    one.kind.gate.set()
    await closing
    assert codes((await running).items[0]) == "a"
    started = set(threading.enumerate()) - before
    assert not [t for t in started if t.name.startswith("sensorium-media")]
    with pytest.raises(EngineClosedError):
        await one.pipeline.prepare(one.items("c"))
    one.pipeline.close()


def test_the_number_of_threads(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_MEDIA_LOADING_THREAD_COUNT", "3")
    assert bench(num_threads=None).pipeline._executor._max_workers == 3
    assert bench(num_threads=5).pipeline._executor._max_workers == 5
    monkeypatch.setenv("SENSORIUM_MEDIA_LOADING_THREAD_COUNT", "many")
    with pytest.raises(ConfigError, match="'many'; it must be an integer of at least 1"):
        bench(num_threads=None)


# --- derived items ---------------------------------------------------------------------


async def test_derived_items_stand_behind_their_parents(bench: Make) -> None:
    one = bench(echo=True)
    media = await one.pipeline.prepare(one.items("x", "ab~"))
    assert [(i.kind, i.index, codes(i)) for i in media.items] == [
        ("note", 0, "x"),
        ("note", 1, "ab~"),
        ("echo", 1, "~ba"),
    ]
    assert media.items[2].parent == media.items[1].key
    assert media.items[1].parent is None
    again = await one.pipeline.prepare(one.items("ab~"))
    assert [item.key for item in again.items] == [item.key for item in media.items[1:]]
    assert [item.index for item in again.items] == [0, 0]
    assert again.num_hits == 2
    assert one.kind.calls["load"] == 2


async def test_derived_items_follow_their_own_options(bench: Make) -> None:
    one = bench(echo=True)
    plain = await one.pipeline.prepare(one.items("a~"))
    loud = await one.pipeline.prepare(one.items("a~"), processor_kwargs={"loudness": 2})
    assert loud.items[0].key == plain.items[0].key
    assert loud.items[1].key != plain.items[1].key
    assert loud.items[1].features["reader"]["codes"][0] == 2 * ord("~")
    assert (await one.pipeline.prepare(one.items("a~"))).num_hits == 2


async def test_derived_items_of_kinds_the_model_does_not_take_are_left_out(bench: Make) -> None:
    one = bench()
    media = await one.pipeline.prepare(one.items("ab~"))
    assert [item.kind for item in media.items] == ["note"]


async def test_a_uuid_used_again_for_another_size_is_another_item_to_the_engine(
    bench: Make,
) -> None:
    one = bench(cache_bytes=0)  # nothing is found: each is made
    keys = []
    for text in ("abc", "abd", "abcd"):
        media = await one.pipeline.prepare(one.items(text, uuids=["u"]))
        keys.append(media.items[0].key)
    assert keys[0] == keys[1], "a stale answer is what the name promises"
    assert keys[2] != keys[0], "its rows must not be cut from the other's"
    (alone,) = (await one.pipeline.prepare(one.items(None, uuids=["u"]))).items
    assert (alone.key, alone.plan.num_tokens, alone.features) == (keys[2], 4, {})


# --- memory ----------------------------------------------------------------------------


async def test_features_are_counted_until_the_request_ends(bench: Make) -> None:
    one = bench(memory=MemoryBudget(1000))
    memory = one.pipeline.memory
    first = await one.pipeline.prepare(one.items("abc", "abc", note_url("de")))
    assert memory.stats.used_bytes == 4 * 3 + 4 * 2, "int32 features, equal ones once"
    again = await one.pipeline.prepare(one.items("abc", "fg"))
    assert memory.stats.used_bytes == 4 * (3 + 2 + 2)
    first.release()
    assert memory.stats.used_bytes == 4 * (3 + 2), "the second request still holds abc"
    again.release()
    assert memory.stats.used_bytes == 0
    memory.check_integrity()


async def test_failures_give_everything_back(bench: Make) -> None:
    one = bench(memory=MemoryBudget(1000))
    for texts in (("ab", "c!"), ("ab", "c?"), ("x" * 101,), ("a", None)):
        with pytest.raises((RequestError, PluginError)):
            await one.pipeline.prepare(one.items(*texts))
    one.kind.gate.clear()
    task = asyncio.create_task(one.pipeline.prepare(one.items("abcd")))
    await asyncio.to_thread(one.kind.started.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    one.kind.gate.set()
    one.pipeline._executor.submit(lambda: None).result(30)
    one.pipeline.close()  # waits for the thread that still decodes
    assert one.pipeline.memory.stats.used_bytes == 0


async def test_a_request_that_never_fits_is_refused_with_the_numbers(bench: Make) -> None:
    one = bench(memory=MemoryBudget(100))
    with pytest.raises(LimitError, match=r"note 0: .* need 110 bytes .* allows 100"):
        await one.pipeline.prepare(one.items("x" * 11))
    assert one.kind.calls["load"] == 0
    assert (await one.pipeline.prepare(one.items("x" * 10))).items


async def test_requests_that_do_not_fit_together_take_turns(bench: Make) -> None:
    one = bench(memory=MemoryBudget(100), limits={"note": None})
    items = [one.items(f"{index:04}", f"{index:05}") for index in range(20)]

    async def whole_request(given: list[MediaItem]) -> int:
        media = await one.pipeline.prepare(given)
        await asyncio.sleep(0)
        media.release()
        return len(media.items)

    assert await asyncio.gather(*map(whole_request, items)) == [2] * 20
    assert one.pipeline.memory.stats.used_bytes == 0
    one.pipeline.memory.check_integrity()


async def test_closing_ends_requests_that_wait_for_memory(bench: Make) -> None:
    one = bench(memory=MemoryBudget(100))
    held = await one.pipeline.prepare(one.items("x" * 10))
    waiting = asyncio.create_task(one.pipeline.prepare(one.items("z" * 10)))
    while one.pipeline.memory.stats.num_waiting == 0:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(one.pipeline.close)
    with pytest.raises(EngineClosedError):
        await waiting
    held.release()


# --- fetching --------------------------------------------------------------------------


async def test_what_is_fetched_and_what_is_decoded(bench: Make) -> None:
    """With a uuid the lookup comes before the fetch; without one behind it, before the decode."""
    with HostileServer() as server:
        server.scripts["/a"] = answer(b"abc")
        server.scripts["/same"] = answer(b"abc")
        url, same = server.url("/a"), server.url("/same")
        one = bench(fetch_policy=FetchPolicy(private=True))

        async def counts(*given: str | None, uuids: Any = None, salt: str = "") -> tuple[int, int]:
            media = await one.pipeline.prepare(one.items(*given, uuids=uuids), salt=salt)
            assert [codes(item) for item in media.items] == ["abc"] * len(given)
            media.release()
            return len(server.requests), one.kind.calls["load"]

        assert await counts(url) == (1, 1)
        assert await counts(url) == (2, 1), "without a uuid it is fetched, and known by its content"
        assert await counts(same) == (3, 1), "whatever its URL"
        assert await counts(url, uuids=["u"]) == (4, 2)
        assert await counts(url, uuids=["u"]) == (4, 2), "with one it is known before it is fetched"
        assert await counts(None, uuids=["u"]) == (4, 2)
        assert await counts(url, uuids=["u"], salt="other") == (5, 3)
        assert one.pipeline.memory.stats.used_bytes == 0


async def test_failed_fetches_name_the_item(bench: Make) -> None:
    with HostileServer() as server:
        one = bench(fetch_policy=FetchPolicy(private=True))
        server.scripts["/long"] = answer(b"x" * 65)
        with pytest.raises(MediaError, match=r"note 1: http://.* answered with status 404"):
            await one.pipeline.prepare(one.items("a", server.url("/none")))
        with pytest.raises(LimitError, match=r"note 0: its 65 bytes are more than the 64 allowed"):
            await one.pipeline.prepare(one.items(server.url("/long")))
        assert one.pipeline.memory.stats.used_bytes == 0


async def test_slow_origins_delay_nobodys_decoding(bench: Make) -> None:
    """More origins than media threads hold their answers back; other media are prepared."""
    released = threading.Event()
    with HostileServer() as server:

        def hold(request: Request, connection: Any) -> None:
            assert released.wait(60)
            answer(b"late")(request, connection)

        targets = [f"/{index}" for index in range(8)]
        server.scripts.update(dict.fromkeys(targets, hold))
        one = bench(num_threads=2, limits={"note": None}, fetch_policy=FetchPolicy(private=True))
        slow = [
            asyncio.create_task(one.pipeline.prepare(one.items(server.url(target))))
            for target in targets
        ]
        while len(server.requests) < len(targets):
            await asyncio.sleep(0.001)
        assert codes((await one.pipeline.prepare(one.items("quick"))).items[0]) == "quick"
        assert not any(task.done() for task in slow)
        released.set()
        assert [codes((await task).items[0]) for task in slow] == ["late"] * len(targets)
