"""The budget: nobody takes more than there is, nobody waits for ever, every byte comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import EngineClosedError, LimitError
from sensorium.media.memory import (
    Claim,
    Dropped,
    Lease,
    MemoryBudget,
    MustWait,
    default_budget_bytes,
)


async def started(budget: MemoryBudget) -> Lease:
    lease = budget.lease()
    await lease.begin()
    return lease


async def turns() -> None:
    """Lets everything that can go on do so."""
    for _ in range(8):
        await asyncio.sleep(0)


async def test_what_is_taken_comes_back() -> None:
    budget = MemoryBudget(100)
    lease = await started(budget)
    claim = lease.claim()
    assert claim.try_take(60)
    assert not claim.try_take(50)
    claim.give_back(20)
    assert claim.try_take(50)
    features = object()
    claim.settle(features, 30)
    assert budget.stats.used_bytes == 30
    lease.finish()
    assert budget.stats.used_bytes == 30
    lease.release()
    lease.release()
    assert budget.stats.used_bytes == 0
    budget.check_integrity()


async def test_features_count_once_and_as_often_as_they_lie_in_memory() -> None:
    budget = MemoryBudget(100, copies=2)
    features = object()
    leases = [await started(budget) for _ in range(3)]
    for lease in leases:
        assert lease.try_hold(features, 30)
        assert lease.try_hold(features, 30)
    assert budget.stats.used_bytes == 60
    for lease in leases:
        assert budget.stats.used_bytes == 60
        lease.release()
    assert budget.stats.used_bytes == 0


async def test_what_can_never_fit_is_refused_at_once() -> None:
    budget = MemoryBudget(100)
    await started(budget)
    lease = await started(budget)
    with pytest.raises(LimitError, match=r"need 101 bytes .* media_memory_gb allows 100 for all"):
        lease.claim().try_take(101)


async def test_items_that_do_not_fit_together_are_made_in_turn_or_refused() -> None:
    budget = MemoryBudget(100)
    lease = await started(budget)
    assert lease.try_hold(object(), 60)
    with pytest.raises(MustWait):
        await lease.claim().take(41)
    lease.give_up()
    await lease.begin()
    assert lease.alone
    assert lease.try_hold(object(), 60)
    with pytest.raises(LimitError, match="need 101 bytes"):
        await lease.claim().take(41)


async def test_a_younger_request_gives_up_and_gets_its_turn_when_it_fits() -> None:
    budget = MemoryBudget(100)
    older, younger = await started(budget), await started(budget)
    assert older.claim().try_take(50)
    claim = younger.claim()
    assert claim.try_take(40)
    with pytest.raises(MustWait):
        await claim.take(30)
    younger.give_up()
    assert budget.stats.used_bytes == 50
    waiting = asyncio.ensure_future(younger.begin())
    await turns()
    assert not waiting.done(), "70 bytes were needed and 50 are free"
    latecomer = asyncio.ensure_future(started(budget))
    await turns()
    assert not latecomer.done(), "nobody overtakes"
    older.release()
    await waiting
    assert budget.stats.used_bytes == 70, "what it needed is promised to it"
    assert younger.claim().try_take(70)
    assert (await latecomer).claim().try_take(30)
    with pytest.raises(Dropped):
        claim.try_take(1)


async def test_the_oldest_waits_where_it_stands_and_others_give_way() -> None:
    budget = MemoryBudget(100)
    oldest, younger = await started(budget), await started(budget)
    assert younger.claim().try_take(60)
    with pytest.raises(MustWait):
        await oldest.claim().take(60)
    oldest.give_up()
    await oldest.begin()
    assert oldest.alone
    claim = oldest.claim()
    waiting = asyncio.ensure_future(claim.take(60))
    await turns()
    assert not waiting.done()
    assert budget.stats.num_waiting == 1
    with pytest.raises(MustWait):
        await younger.claim().take(10)
    younger.give_up()
    await waiting
    assert claim.num_bytes == 60
    budget.check_integrity()


async def test_waiting_cancels_cleanly() -> None:
    budget = MemoryBudget(100)
    holder = await started(budget)
    assert holder.claim().try_take(100)
    holder.finish()  # it is in the engine: it holds features
    features = object()
    holder = await started(budget)
    assert holder.try_hold(features, 100)
    holder.finish()
    second = await started(budget)
    with pytest.raises(MustWait):
        await second.claim().take(10)
    second.give_up()
    await second.begin()
    claim = second.claim()
    in_place = asyncio.ensure_future(claim.take(10))
    third = budget.lease()
    in_queue = asyncio.ensure_future(third.begin())
    await turns()
    assert budget.stats.num_waiting == 2
    for task in (in_place, in_queue):
        task.cancel()
    await asyncio.gather(in_place, in_queue, return_exceptions=True)
    for lease in (second, third):
        lease.release()
    assert budget.stats.num_waiting == budget.stats.num_preparing == 0
    holder.release()
    budget.check_integrity()
    assert budget.stats.used_bytes == 0


async def test_work_that_goes_on_keeps_its_bytes_until_it_ends() -> None:
    budget = MemoryBudget(100)
    lease = await started(budget)
    claim = lease.claim()
    assert claim.try_take(80)
    with claim.working():
        lease.release()
        assert budget.stats.used_bytes == 80, "a thread still decodes into them"
        budget.check_integrity()
        claim.settle(object(), 50)
    assert budget.stats.used_bytes == 0
    with pytest.raises(Dropped), claim.working():
        raise AssertionError("work began for a request that has ended")


async def test_closing_ends_all_waiting() -> None:
    budget = MemoryBudget(100)
    holder = await started(budget)
    assert holder.try_hold(object(), 100)
    holder.finish()
    lease = await started(budget)
    with pytest.raises(MustWait):
        await lease.claim().take(10)
    lease.give_up()
    await lease.begin()
    in_place = asyncio.ensure_future(lease.claim().take(10))
    in_queue = asyncio.ensure_future(started(budget))
    await turns()
    budget.close()
    for task in (in_place, in_queue, asyncio.ensure_future(started(budget))):
        with pytest.raises(EngineClosedError):
            await task


def test_a_sane_default() -> None:
    assert 2**30 <= default_budget_bytes() < 2**50


# --- arrivals, cancellations and failures at random -----------------------------------------


@dataclass(frozen=True)
class Item:
    """What one item takes: its file in pieces, decoded values, features."""

    pieces: tuple[int, ...]
    decoded: int
    features: int
    fails: bool = False


@dataclass
class World:
    """Requests as tasks; each stops where something from outside would happen next.

    ``step`` lets one of those things happen, chosen by the test. A world in which nothing is left
    to happen, and a request isn't done, stands still for ever.
    """

    budget: MemoryBudget
    doors: list[asyncio.Future[None]] = field(default_factory=list)
    most_used: int = 0

    async def happens(self) -> None:
        door: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.doors.append(door)
        await door

    async def step(self, choice: int) -> bool:
        self.doors = [door for door in self.doors if not door.done()]
        if not self.doors:
            return False
        self.doors.pop(choice % len(self.doors)).set_result(None)
        await turns()
        self.budget.check_integrity()
        used = self.budget.stats.used_bytes
        self.most_used = max(self.most_used, used)
        return True

    async def make(self, item: Item, claim: Claim) -> object:
        await self.happens()
        for piece in item.pieces:
            await claim.take(piece)
            await self.happens()
        await claim.take(item.decoded)
        await self.happens()
        if item.fails:
            raise ValueError("damaged")
        features = object()
        claim.settle(features, item.features)
        return features

    async def request(self, items: list[Item]) -> str:
        lease = self.budget.lease()

        async def attempt() -> None:
            if lease.alone:
                for item in items:
                    await self.make(item, lease.claim())
            else:
                await at_once([self.make(item, lease.claim()) for item in items])

        await lease.attempt(attempt)
        try:
            await self.happens()  # the engine answers
        finally:
            lease.release()
        return "answered"


async def at_once(coroutines: list[Awaitable[object]]) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


TOTAL = 100
ITEMS = st.builds(
    lambda pieces, decoded, part, fails: Item(tuple(pieces), decoded, decoded * part // 4, fails),
    st.lists(st.integers(0, 30), max_size=3),
    st.integers(0, 60),
    st.integers(0, 4),
    st.sampled_from([False] * 9 + [True]),
)
REQUESTS = st.lists(st.lists(ITEMS, min_size=1, max_size=4), min_size=1, max_size=8)


def needs_alone(items: list[Item]) -> int:
    """The most that a request holds when its items are made one by one."""
    kept, most = 0, 0
    for item in items:
        most = max(most, kept + sum(item.pieces) + item.decoded)
        if item.fails:
            return most
        kept += item.features
    return most


async def play(
    requests: list[list[Item]], choices: Callable[[], int], cancelled: set[int]
) -> tuple[World, list[object]]:
    world = World(MemoryBudget(TOTAL))
    tasks = []
    for index, items in enumerate(requests):
        tasks.append(asyncio.ensure_future(world.request(items)))
        await turns()
        for _ in range(choices() % 4):
            await world.step(choices())
        if index in cancelled:
            tasks[choices() % len(tasks)].cancel()
            await turns()
    while await world.step(choices()):
        pass
    assert all(task.done() for task in tasks), "requests wait for each other for ever"
    return world, await asyncio.gather(*tasks, return_exceptions=True)


@settings(max_examples=30, deadline=None)
@given(requests=REQUESTS, data=st.data(), cancelled=st.sets(st.integers(0, 7), max_size=3))
def test_any_order_of_events(
    requests: list[list[Item]], data: st.DataObject, cancelled: set[int]
) -> None:
    numbers = data.draw(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
    state = {"next": 0}

    def choices() -> int:
        state["next"] += 1
        return numbers[state["next"] % len(numbers)]

    world, outcomes = asyncio.run(play(requests, choices, cancelled))
    assert world.most_used <= TOTAL
    stats = world.budget.stats
    assert (stats.used_bytes, stats.num_preparing, stats.num_waiting) == (0, 0, 0)
    for items, outcome in zip(requests, outcomes, strict=True):
        fits = needs_alone(items) <= TOTAL
        if isinstance(outcome, asyncio.CancelledError):
            assert cancelled
        elif isinstance(outcome, LimitError):
            assert not fits
        elif isinstance(outcome, ValueError):
            assert any(item.fails for item in items)
        else:
            assert outcome == "answered"
            assert not any(item.fails for item in items)
