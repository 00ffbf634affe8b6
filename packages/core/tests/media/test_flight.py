"""Work for one key runs once; waiters come, go and fail without harming each other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sensorium.errors import EngineClosedError
from sensorium.media.flight import SingleFlight, run_in


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """One thread, so that the second piece of work has to wait."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Work:
    """Counts its runs; holds each until ``gate`` is set."""

    def __init__(self, *, failures: int = 0) -> None:
        self.runs = 0
        self.failures = failures
        self.gate = threading.Event()
        self.stored: str | None = None

    def __call__(self) -> str:
        self.runs += 1
        assert self.gate.wait(10)
        if self.runs <= self.failures:
            raise ValueError("broken")
        self.stored = "made"
        return "made"

    def find(self) -> str | None:
        return self.stored


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.005)


async def test_many_waiters_one_run(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    work = Work()
    tasks = [asyncio.create_task(flights.run(b"k", work.find, work)) for _ in range(5)]
    await settle()
    work.gate.set()
    results = await asyncio.gather(*tasks)
    assert work.runs == 1
    assert sorted(results) == [("made", False)] + [("made", True)] * 4
    assert await flights.run(b"k", work.find, work) == ("made", True)
    assert work.runs == 1
    assert flights._flights == {}


async def test_waiters_on_several_loops_share(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    work = Work()
    results: list[tuple[str | None, bool]] = []

    def on_own_loop() -> None:
        results.append(asyncio.run(flights.run(b"k", work.find, work)))

    threads = [threading.Thread(target=on_own_loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    await asyncio.sleep(0.05)
    work.gate.set()
    for thread in threads:
        thread.join(10)
    assert work.runs == 1
    assert len(results) == 3


async def test_a_cancelled_owner_leaves_the_others(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    work = Work()
    owner = asyncio.create_task(flights.run(b"k", work.find, work))
    await settle()
    other = asyncio.create_task(flights.run(b"k", work.find, work))
    await settle()
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    work.gate.set()
    assert await other == ("made", True)
    assert work.runs == 1


async def test_work_that_nobody_waits_for_is_dropped(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    first, second = Work(), Work()
    busy = asyncio.create_task(flights.run(b"1", first.find, first))
    await settle()
    waiting = asyncio.create_task(flights.run(b"2", second.find, second))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert list(flights._flights) == [b"1"], "the cancelled flight must not be left behind"
    again = asyncio.create_task(flights.run(b"2", second.find, second))
    first.gate.set()
    second.gate.set()
    assert await busy == ("made", False)
    assert await again == ("made", False)
    assert second.runs == 1


async def test_a_failure_is_the_owners_alone(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    work = Work(failures=1)
    owner = asyncio.create_task(flights.run(b"k", work.find, work))
    await settle()
    other = asyncio.create_task(flights.run(b"k", work.find, work))
    finder = asyncio.create_task(flights.run(b"k", work.find, None))
    await settle()
    work.gate.set()
    with pytest.raises(ValueError, match="broken"):
        await owner
    assert (await other)[0] == "made"
    assert work.runs == 2
    assert (await finder)[0] in (None, "made"), "whether it came before or after the second run"
    assert flights._flights == {}


async def test_only_finding(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    assert await flights.run(b"k", lambda: None, None) == (None, True)
    assert await flights.run(b"k", lambda: "old", None) == ("old", True)


async def test_shutdown_ends_waiting(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    first, second = Work(), Work()
    busy = asyncio.create_task(flights.run(b"1", first.find, first))
    await settle()
    waiting = asyncio.create_task(flights.run(b"2", second.find, second))
    direct = asyncio.create_task(run_in(executor, second))
    await settle()
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(EngineClosedError):
        await waiting
    with pytest.raises(EngineClosedError):
        await direct
    first.gate.set()
    assert await busy == ("made", False)
    with pytest.raises(EngineClosedError):
        await run_in(executor, first)
    with pytest.raises(EngineClosedError):
        await flights.run(b"3", second.find, second)


async def test_run_in_drops_work_that_has_not_begun(executor: ThreadPoolExecutor) -> None:
    first, second = Work(), Work()
    busy = asyncio.create_task(run_in(executor, first))
    await settle()
    waiting = asyncio.create_task(run_in(executor, second))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first.gate.set()
    second.gate.set()
    await busy
    await run_in(executor, time.monotonic)
    assert (first.runs, second.runs) == (1, 0)


async def test_work_done_on_ones_own_thread_is_shared_too(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    work = Work()
    here = asyncio.create_task(run_in(executor, lambda: flights.try_here(b"k", work.find, work)))
    await settle()
    assert flights.try_here(b"k", work.find, work) == (None, False), "another is at it"
    waiting = asyncio.create_task(flights.run(b"k", work.find, work))
    cancelled = asyncio.create_task(flights.run(b"k", work.find, work))
    await settle()
    cancelled.cancel()
    await settle()
    work.gate.set()
    assert await here == ("made", False)
    assert await waiting == ("made", True)
    assert flights.try_here(b"k", work.find, work) == ("made", True)
    assert work.runs == 1
    assert flights._flights == {}


async def test_failures_on_ones_own_thread_are_not_shared(executor: ThreadPoolExecutor) -> None:
    flights: SingleFlight[str] = SingleFlight(executor)
    work = Work(failures=1)
    here = asyncio.create_task(run_in(executor, lambda: flights.try_here(b"k", work.find, work)))
    await settle()
    waiting = asyncio.create_task(flights.run(b"k", work.find, work))
    await settle()
    work.gate.set()
    with pytest.raises(ValueError, match="broken"):
        await here
    assert await waiting == ("made", False)
    assert work.runs == 2
    assert flights._flights == {}
