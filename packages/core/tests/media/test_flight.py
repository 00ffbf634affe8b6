"""Work for one key runs once; waiters come, go and fail without harming each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from sensorium.errors import EngineClosedError
from sensorium.media.flight import SingleFlight, run_in


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Two threads, so that two may be at the same work."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Work:
    """Counts its runs; says when each has begun, and holds it until ``gate`` is set."""

    def __init__(self, *, failures: int = 0) -> None:
        self.runs = 0
        self.failures = failures
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.stored: str | None = None

    def __call__(self) -> str:
        self.runs += 1
        self.begun.release()
        assert self.gate.wait(30)
        if self.runs <= self.failures:
            raise ValueError("broken")
        self.stored = "made"
        return "made"

    def find(self) -> str | None:
        return self.stored


class Bench:
    """Flights, and one piece of work that has begun in a thread."""

    def __init__(self, executor: ThreadPoolExecutor, *, failures: int = 0) -> None:
        self.flights: SingleFlight[str] = SingleFlight()
        self.work = Work(failures=failures)
        self.running: Future[tuple[str | None, bool]] = executor.submit(self.run_here)
        assert self.work.begun.acquire(timeout=100)

    def run_here(self) -> tuple[str | None, bool]:
        return self.flights.run_here(b"k", self.work.find, self.work)

    def join(self) -> asyncio.Task[str | None]:
        return asyncio.ensure_future(self.flights.join(b"k", self.work.find))


async def joined(task: asyncio.Task[str | None]) -> None:
    """Lets the task get to where it waits: one turn of the loop starts it."""
    await asyncio.sleep(0)
    assert not task.done()


async def test_work_runs_once_and_all_get_its_result(executor: ThreadPoolExecutor) -> None:
    bench = Bench(executor)
    assert await run_in(executor, bench.run_here) == (None, False), "another thread is at it"
    waiters = [bench.join() for _ in range(3)]
    for waiter in waiters:
        await joined(waiter)
    bench.work.gate.set()
    assert await asyncio.gather(*waiters) == ["made"] * 3
    assert bench.running.result(30) == ("made", False)
    assert await run_in(executor, bench.run_here) == ("made", True)
    assert await bench.join() == "made"
    assert bench.work.runs == 1
    assert bench.flights._flights == {}


async def test_waiters_on_several_loops_share(executor: ThreadPoolExecutor) -> None:
    bench = Bench(executor)
    here = bench.join()
    await joined(here)
    there = threading.Thread(target=lambda: asyncio.run(self_join(bench)))
    there.start()
    bench.work.gate.set()
    assert await here == "made"
    await asyncio.to_thread(there.join, 30)
    assert bench.work.runs == 1


async def self_join(bench: Bench) -> None:
    assert await bench.flights.join(b"k", bench.work.find) == "made"


async def test_a_cancelled_waiter_leaves_the_others(executor: ThreadPoolExecutor) -> None:
    bench = Bench(executor)
    first, second = bench.join(), bench.join()
    await joined(first)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    bench.work.gate.set()
    assert await second == "made"


async def test_a_failure_is_not_shared(executor: ThreadPoolExecutor) -> None:
    bench = Bench(executor, failures=1)
    waiter = bench.join()
    await joined(waiter)
    bench.work.gate.set()
    with pytest.raises(ValueError, match="broken"):
        bench.running.result(30)
    assert await waiter is None
    assert await bench.join() is None, "there is nothing to find"
    assert await run_in(executor, bench.run_here) == ("made", False)


async def test_other_keys_do_not_wait(executor: ThreadPoolExecutor) -> None:
    bench = Bench(executor)
    assert await bench.flights.join(b"other", lambda: None) is None
    assert bench.flights.run_here(b"other", lambda: None, lambda: "other") == ("other", False)
    bench.work.gate.set()


async def test_work_of_a_cancelled_caller_never_begins() -> None:
    gate, begun = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        blocker = pool.submit(gate.wait, 30)
        task = asyncio.ensure_future(run_in(pool, begun.set))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert blocker.result(30)
    assert not begun.is_set()


async def test_closing() -> None:
    gate = threading.Event()
    pool = ThreadPoolExecutor(1)
    pool.submit(gate.wait, 30)
    task = asyncio.ensure_future(run_in(pool, lambda: None))
    await asyncio.sleep(0)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    with pytest.raises(EngineClosedError):
        await task
    with pytest.raises(EngineClosedError):
        await run_in(pool, lambda: None)
