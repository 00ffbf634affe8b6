"""Preparations end when the engine closes or the request is aborted, wherever they wait."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from sensorium.engine.preparing import AbortedError, Preparations
from sensorium.errors import EngineClosedError, RequestError


async def waits(preparations: Preparations, name: str, what: asyncio.Future[None]) -> None:
    with preparations.begin(name):
        await what


async def started(preparations: Preparations, name: str) -> asyncio.Task[None]:
    """A preparation that waits for what never comes."""
    never = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(waits(preparations, name, never))
    await asyncio.sleep(0)
    return task


async def test_closing_ends_what_waits_and_what_comes() -> None:
    preparations = Preparations()
    tasks = [await started(preparations, name) for name in "ab"]
    await asyncio.to_thread(preparations.close)
    for task in tasks:
        with pytest.raises(EngineClosedError, match="closed"):
            await task
        assert not task.cancelled()
        assert task.cancelling() == 0, "a timeout around it would take that for its own"
    with pytest.raises(EngineClosedError, match="closed"), preparations.begin("c"):
        pytest.fail("it began")


async def test_aborting_ends_one_by_its_name() -> None:
    preparations = Preparations()
    aborted, other = [await started(preparations, name) for name in ("a", "b")]
    preparations.abort({"a", "nobody"})
    with pytest.raises(AbortedError):
        await aborted
    assert not other.done()
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other


@pytest.mark.parametrize(
    "error", [RuntimeError("cannot schedule new futures"), asyncio.CancelledError()]
)
async def test_what_closing_does_to_the_work_is_no_news(error: BaseException) -> None:
    """Pools that are shut down refuse work, or cancel it; the caller hears of the closing."""
    preparations = Preparations()
    loop = asyncio.get_running_loop()
    work: Future[None] = Future()
    task = asyncio.create_task(waits(preparations, "a", asyncio.wrap_future(work, loop=loop)))
    await asyncio.sleep(0)
    preparations.close()
    work.set_exception(error)
    with pytest.raises(EngineClosedError):
        await task


async def test_the_owners_cancellation_counts_more() -> None:
    preparations = Preparations()
    task = await started(preparations, "a")
    preparations.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_preparation_itself_goes_through() -> None:
    preparations = Preparations()
    with pytest.raises(RequestError, match="bad"), preparations.begin("a"):
        raise RequestError("bad")
    with preparations.begin("a"):
        pass
    preparations.abort({"a"})  # it has ended: nobody is cancelled
    await asyncio.sleep(0)
