"""``MemoryBudget``: one budget of bytes for all media that an engine is preparing or holds.

    Lease     a request's share, from its first fetch until it ends in the engine
      Claim   what one of its items takes while it is made: file, decoded values
      features, counted once however many requests hold them (``features.py``)

A request that must wait releases everything it took and starts again when its turn comes, so
waiting requests hold nothing. Turns go by arrival: the oldest request still being prepared gets one
at once, any other as soon as the memory that it is known to need is free, and none before an
earlier request that still waits. The oldest request prepares its items one by one and keeps what it
has while it waits: every byte that it waits for is held by requests in the engine, which end by
themselves, or by younger requests at work, which finish or give up. So the oldest request always
finishes, or is refused because it wouldn't fit even alone.

It counts and wakes; it allocates nothing, and knows nothing of media. All methods may be called
from any thread and any event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from sensorium.errors import EngineClosedError, LimitError
from sensorium.media.features import FeatureBook
from sensorium.media.heap import FreedBytes

Result = TypeVar("Result")
GIB = 2**30
#: of the machine's memory, where ``media_memory_gb`` isn't given
DEFAULT_FRACTION = 4
MIN_DEFAULT_BYTES = GIB


class MustWait(Exception):
    """The request has to give up what it holds and wait for its turn."""


class Dropped(Exception):
    """Work was to begin for a claim that its request has given up meanwhile."""


def default_budget_bytes() -> int:
    """A quarter of the machine's memory (or of what a control group leaves), at least 1 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            memory = min(memory, int(file.read()))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return max(MIN_DEFAULT_BYTES, memory // DEFAULT_FRACTION)


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """The budget at one moment.

    Attributes:
        used_bytes: taken or promised.
        num_preparing: leases whose requests are being prepared, those that wait included.
        num_waiting: those of them that wait for a turn or for bytes.
    """

    total_bytes: int
    used_bytes: int
    num_preparing: int
    num_waiting: int


class MemoryBudget:
    """One per engine.

    Args:
        total_bytes: what may be taken at once.
        copies: how often features lie in memory: twice where the engine is a process of its own.

    Attributes:
        freed: what requests gave up.
    """

    def __init__(self, total_bytes: int, *, copies: int = 1) -> None:
        self.total_bytes = total_bytes
        self.freed = FreedBytes()
        self._used = 0
        self._orphaned = 0  # part of it: held by work whose request has given up
        self._is_closed = False
        self._lock = threading.RLock()
        self._num_leases = 0
        self._preparing: dict[int, Lease] = {}  # by arrival, the oldest first
        self._waiting: list[int] = []  # a heap of their numbers; some have stopped waiting
        self._features = FeatureBook(copies)

    def lease(self) -> Lease:
        """A share for a request that arrives now; nothing is taken yet."""
        with self._lock:
            self._num_leases += 1
            lease = Lease(self, self._num_leases)
            self._preparing[lease.number] = lease
            return lease

    def close(self) -> None:
        """Fails all that wait, now and later, with ``EngineClosedError``."""
        with self._lock:
            self._is_closed = True
            for lease in self._preparing.values():
                lease._fail_waiting()

    @property
    def stats(self) -> MemoryStats:
        """The counts at this moment."""
        with self._lock:
            leases = self._preparing.values()
            return MemoryStats(
                total_bytes=self.total_bytes,
                used_bytes=self._used,
                num_preparing=len(leases),
                num_waiting=sum(lease._turn is not None or lease._wants > 0 for lease in leases),
            )

    def check_integrity(self) -> None:
        """For tests: compares the total with the sum over leases, claims and features.

        Raises:
            AssertionError: they differ.
        """
        with self._lock:
            leases = list(self._preparing.values())
            claims = sum(max(lease._held, lease._reserved) for lease in leases)
            promised = claims + self._features.num_bytes + self._orphaned
            assert self._used == promised, "the budget's sum is wrong"
            for lease in leases:
                assert lease._held == sum(claim.num_bytes for claim in lease._claims)

    # --- the rest is called by leases and claims, with the lock -------------------------

    def _is_oldest(self, lease: Lease) -> bool:
        return next(iter(self._preparing), None) == lease.number

    def _fits(self, num_bytes: int) -> bool:
        return self._used + num_bytes <= self.total_bytes

    def _oldest_wants(self) -> bool:
        oldest = next(iter(self._preparing.values()), None)
        return oldest is not None and oldest._wants > 0

    def _dispatch(self) -> None:
        """Gives turns and bytes to waiting requests in order of arrival, until one can't be
        served."""
        while self._advance_first():
            pass

    def _advance_first(self) -> bool:
        while self._waiting:
            lease = self._preparing.get(self._waiting[0])
            if lease is not None and lease._wants:
                return lease._grant_wanted()
            if lease is not None and lease._turn is not None:
                return lease._grant_turn()
            heapq.heappop(self._waiting)
        return False


@dataclass(eq=False, slots=True)
class Claim:
    """What one item takes while it is made."""

    lease: Lease
    num_bytes: int = 0
    is_working: bool = False
    is_dropped: bool = False

    def try_take(self, num_bytes: int) -> bool:
        """Takes bytes if they are there.

        Raises:
            LimitError: the request could not be served even alone.
            Dropped: the request has given up.
        """
        return self.lease._try_take(self, num_bytes)

    async def take(self, num_bytes: int) -> None:
        """Takes bytes, waiting for them if this request is the one that may.

        Raises:
            MustWait: this request may not wait here; it must give up and begin again.
            LimitError, Dropped: as ``try_take``.
        """
        if self.try_take(num_bytes):
            return
        granted = self.lease._want(self, num_bytes)
        try:
            await asyncio.wrap_future(granted)
        finally:
            self.lease._stop_wanting(granted)

    def give_back(self, num_bytes: int | None = None) -> None:
        """Returns some of its bytes; None: all."""
        self.lease._give_back(self, num_bytes)

    def settle(self, features: object, num_bytes: int) -> None:
        """Exchanges all its bytes for the finished features, at once, whatever size they have."""
        self.lease._settle(self, features, num_bytes)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A context around work that can't be interrupted: its bytes return when the work has
        ended.

        Raises:
            Dropped: the request has given up before the work began.
        """
        self.lease._begin_work(self)
        try:
            yield
        finally:
            self.lease._end_work(self)


@dataclass(eq=False, slots=True)
class Lease:
    """One request's share. Made by ``MemoryBudget.lease``.

    Attributes:
        alone: its items are to be prepared one by one, since it may wait where it stands.
    """

    budget: MemoryBudget
    number: int
    alone: bool = False
    _held: int = 0  # by claims
    _reserved: int = 0  # promised with its turn; claims take from it first
    _need: int = 0  # the peak that its last attempt needed
    _claims: list[Claim] = field(default_factory=list)
    _features: dict[int, int] = field(default_factory=dict)  # id → bytes
    _turn: Future[None] | None = None
    _wants: int = 0
    _wanting: tuple[Claim, Future[None]] | None = None

    async def attempt(self, prepare: Callable[[], Awaitable[Result]]) -> Result:
        """Prepares the request, again after each wait; afterwards it holds features only.

        Args:
            prepare: begins anew each time; raises ``MustWait`` where a claim did.

        Raises:
            whatever ``prepare`` raises, and EngineClosedError; everything has been returned then.
        """
        try:
            while True:
                await self.begin()
                try:
                    result = await prepare()
                    break
                except MustWait:
                    given_up = self.give_up()
                await self.budget.freed.add(given_up)
        except BaseException:
            self.release()
            raise
        self.finish()
        return result

    async def begin(self) -> None:
        """Waits for its turn; it holds nothing meanwhile.

        Raises:
            EngineClosedError: the budget was closed.
        """
        with self.budget._lock:
            turn: Future[None] = Future()
            self._turn = turn
            heapq.heappush(self.budget._waiting, self.number)
            if self.budget._is_closed:
                self._fail_waiting()
            self.budget._dispatch()
        await asyncio.wrap_future(turn)

    def claim(self) -> Claim:
        """A claim for one item."""
        claim = Claim(self)
        with self.budget._lock:
            self._claims.append(claim)
        return claim

    def give_up(self) -> int:
        """Returns everything, and how many bytes that were; ``begin`` follows."""
        with self.budget._lock:
            held = self._held
            self._drop_all()
            self.budget._dispatch()
        return held

    def finish(self) -> None:
        """Preparing is over: what remains are features, until ``release``."""
        with self.budget._lock:
            self._drop_claims()
            self._leave()
            self.budget._dispatch()

    def release(self) -> None:
        """Returns everything; the request has ended. Calling it again does nothing."""
        with self.budget._lock:
            self._drop_all()
            self._leave()
            self.budget._dispatch()

    def try_hold(self, features: object, num_bytes: int) -> bool:
        """Holds features that were found, if there is room for them.

        Raises:
            LimitError: as ``Claim.try_take``.
        """
        with self.budget._lock:
            cost = self.budget._features.cost(features, num_bytes)
            # Features stay, in whatever order items are made.
            self._check_fits(sum(self._features.values()) + cost)
            if not self._may_take(cost):
                return False
            self._add_features(features, num_bytes)
            return True

    # --- under the lock, for claims ------------------------------------------------------

    def _try_take(self, claim: Claim, num_bytes: int) -> bool:
        with self.budget._lock:
            if claim.is_dropped:
                raise Dropped
            if not self._may_take(num_bytes):
                return False
            claim.num_bytes += num_bytes
            self._charge(num_bytes)
            return True

    def _may_take(self, num_bytes: int) -> bool:
        self._check_ever_fits(num_bytes)
        extra = max(self._held + num_bytes, self._reserved) - max(self._held, self._reserved)
        if extra == 0:
            return True
        budget = self.budget
        if budget._fits(extra) and not (budget._oldest_wants() and not budget._is_oldest(self)):
            return True
        own = self._held + sum(self._features.values())
        self._need = min(budget.total_bytes, max(self._need, own + num_bytes))
        return False

    def _check_ever_fits(self, num_bytes: int) -> None:
        # Beside its other items a request may need more at once than when they are made in turn.
        kept = sum(self._features.values()) + self._held if self.alone else 0
        self._check_fits(kept + num_bytes)

    def _check_fits(self, num_bytes: int) -> None:
        if num_bytes > self.budget.total_bytes:
            raise LimitError(
                f"the request's media need {num_bytes} bytes of memory at once; "
                f"media_memory_gb allows {self.budget.total_bytes} for all requests together."
            )

    def _want(self, claim: Claim, num_bytes: int) -> Future[None]:
        with self.budget._lock:
            if not (self.alone and self.budget._is_oldest(self)) or self._wanting is not None:
                raise MustWait
            granted: Future[None] = Future()
            self._wants, self._wanting = num_bytes, (claim, granted)
            heapq.heappush(self.budget._waiting, self.number)
            if self.budget._is_closed:
                self._fail_waiting()
            self.budget._dispatch()
            return granted

    def _stop_wanting(self, granted: Future[None]) -> None:
        with self.budget._lock:
            if self._wanting is not None and self._wanting[1] is granted:
                self._wants, self._wanting = 0, None
                self.budget._dispatch()

    def _give_back(self, claim: Claim, num_bytes: int | None) -> None:
        with self.budget._lock:
            num_bytes = claim.num_bytes if num_bytes is None else min(num_bytes, claim.num_bytes)
            self._return(claim, num_bytes)
            self.budget._dispatch()

    def _return(self, claim: Claim, num_bytes: int) -> None:
        claim.num_bytes -= num_bytes
        if claim.is_dropped:
            self.budget._used -= num_bytes
            self.budget._orphaned -= num_bytes
        else:
            self._charge(-num_bytes)

    def _settle(self, claim: Claim, features: object, num_bytes: int) -> None:
        with self.budget._lock:
            # Returned first, so that features are charged to what was promised; no other request
            # can take it in between.
            self._return(claim, claim.num_bytes)
            if not claim.is_dropped:
                self._add_features(features, num_bytes)
            self.budget._dispatch()

    def _begin_work(self, claim: Claim) -> None:
        with self.budget._lock:
            if claim.is_dropped:
                raise Dropped
            claim.is_working = True

    def _end_work(self, claim: Claim) -> None:
        with self.budget._lock:
            claim.is_working = False
            if claim.is_dropped:
                self._give_back(claim, None)

    # --- under the lock, for the budget -----------------------------------------------------

    def _grant_wanted(self) -> bool:
        assert self._wanting is not None
        claim, granted = self._wanting
        extra = max(self._held + self._wants, self._reserved) - max(self._held, self._reserved)
        if not self.budget._fits(extra):
            return False
        if granted.set_running_or_notify_cancel():
            claim.num_bytes += self._wants
            self._charge(self._wants)
            granted.set_result(None)
        self._wants, self._wanting = 0, None
        return True

    def _grant_turn(self) -> bool:
        assert self._turn is not None
        is_oldest = self.budget._is_oldest(self)
        if not is_oldest and not self.budget._fits(self._need):
            return False
        turn, self._turn = self._turn, None
        if turn.set_running_or_notify_cancel():
            # A first attempt prepares all items at once, also for the oldest request: most fit.
            self.alone = is_oldest and self._need > 0
            free = max(0, self.budget.total_bytes - self.budget._used)
            self._reserved = min(self._need, free)
            self.budget._used += self._reserved
            turn.set_result(None)
        return True

    def _fail_waiting(self) -> None:
        waiting = [self._turn, self._wanting[1] if self._wanting else None]
        self._turn, self._wants, self._wanting = None, 0, None
        for future in waiting:
            if future is not None and future.set_running_or_notify_cancel():
                future.set_exception(EngineClosedError("The engine was closed."))

    def _charge(self, num_bytes: int) -> None:
        before = max(self._held, self._reserved)
        self._held += num_bytes
        self.budget._used += max(self._held, self._reserved) - before

    def _add_features(self, features: object, num_bytes: int) -> None:
        key = id(features)
        if key not in self._features:
            added, self._features[key] = self.budget._features.hold(features, num_bytes)
            self._consume(added)

    def _consume(self, num_bytes: int) -> None:
        """Features are charged to the budget itself, out of what was promised to the lease."""
        promised = min(num_bytes, max(0, self._reserved - self._held))
        self._reserved -= promised
        self.budget._used += num_bytes - promised

    def _drop_all(self) -> None:
        self._drop_claims()
        for key in self._features:
            self.budget._used -= self.budget._features.release(key)
        self._features.clear()

    def _drop_claims(self) -> None:
        """Returns what claims hold and what was promised; what is being worked on returns later."""
        self.budget._used -= max(self._held, self._reserved)
        self._held = self._reserved = 0
        for claim in self._claims:
            claim.is_dropped = True
            if claim.is_working:
                self.budget._used += claim.num_bytes
                self.budget._orphaned += claim.num_bytes
            else:
                claim.num_bytes = 0
        self._claims.clear()
        self._wants, self._wanting = 0, None

    def _leave(self) -> None:
        self.budget._preparing.pop(self.number, None)
        self._turn = None
