"""``Fetcher``: fetches sources that take waiting, on an event loop of its own.

One thread, started with the first fetch. The number of connections is bounded, in all and to one
host, whichever URL or redirect leads there; a fetch that waits for a connection holds no memory.
Equal URLs in flight are fetched once within a salt. The whole fetch has one deadline, retries and
redirects included; waiting for memory or for a connection doesn't count.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sensorium.errors import EngineClosedError, FetchError, LimitError, MediaError, RequestError
from sensorium.media.fetch.local import LocalRoot
from sensorium.media.fetch.policy import MAX_CONNECTIONS, MAX_CONNECTIONS_PER_HOST, FetchPolicy
from sensorium.media.fetch.resolve import scheme_of
from sensorium.media.fetch.url import HttpUrl, parse_url
from sensorium.media.memory import Claim, MustWait
from sensorium.types import BytesSource, Source, UrlSource

if TYPE_CHECKING:
    import httpcore2

    from sensorium.media.fetch.http import HttpClient, Resolver

#: names that are looked up, and files that are read, at once
MAX_BLOCKING_CALLS = 64


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a kind of media allows for one source.

    Attributes:
        timeout_s: for the whole fetch.
    """

    max_bytes: int
    timeout_s: float


@dataclass(eq=False, slots=True)
class _Flight:
    """A fetch that others may share; None as its result says that each must fetch for itself."""

    result: asyncio.Future[BytesSource | RequestError | None]


@dataclass(eq=False, slots=True)
class _Payment:
    """What one fetch has taken so far, retries included.

    Attributes:
        leave: called before the fetch waits for memory, since other requests may not wait for that.
    """

    claim: Claim
    deadline: asyncio.Timeout
    leave: Callable[[], None]
    num_bytes: int = 0

    def give_back(self, num_bytes: int | None = None) -> None:
        """Returns what was taken, or a part of it."""
        num_bytes = self.num_bytes if num_bytes is None else num_bytes
        self.num_bytes -= num_bytes
        self.claim.give_back(num_bytes)

    async def untimed(self, waiting: Awaitable[object]) -> None:
        """Waits; the deadline stands still meanwhile."""
        loop = asyncio.get_running_loop()
        when = self.deadline.when()
        assert when is not None
        remaining_s = when - loop.time()
        self.deadline.reschedule(None)
        await waiting
        self.deadline.reschedule(loop.time() + remaining_s)

    async def reach(self, num_bytes: int) -> None:
        """Takes what is lacking to ``num_bytes``."""
        lacking = num_bytes - self.num_bytes
        if lacking <= 0:
            return
        try:
            taken = self.claim.try_take(lacking)
        except LimitError:
            self.leave()  # this request's own limit
            raise
        if not taken:
            self.leave()
            await self.untimed(self.claim.take(lacking))
        self.num_bytes = num_bytes


@dataclass(eq=False, slots=True)
class _Host:
    places: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS_PER_HOST)
    )
    num_users: int = 0


class Fetcher:
    """One per engine. ``fetch`` may be awaited from any event loop.

    Args:
        resolver, connector: replaced in tests.

    Raises:
        ConfigError: the policy's local path is no folder.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        *,
        resolver: Resolver | None = None,
        connector: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._connector = connector
        self._root = LocalRoot(policy.local_path) if policy.local_path is not None else None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        # What follows belongs to the loop's thread.
        self._client: HttpClient | None = None
        self._flights: dict[tuple[str, HttpUrl, FetchLimits], _Flight] = {}
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    @staticmethod
    def must_fetch(source: Source) -> bool:
        """Whether the source needs ``fetch``; all others are resolved where they are used."""
        return isinstance(source, UrlSource) and scheme_of(source.url) != "data"

    async def fetch(
        self, source: UrlSource, limits: FetchLimits, *, salt: str, claim: Claim
    ) -> BytesSource:
        """The source's bytes, which the claim has paid for.

        Raises:
            FetchError: the host doesn't deliver.
            MediaError: the URL isn't allowed, or the local file can't be read.
            LimitError: more than ``limits.max_bytes``.
            MustWait: as ``Claim.take``.
            EngineClosedError: ``close`` was called.
        """
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("The engine was closed.")
            loop = self._loop or self._start()
            future = asyncio.run_coroutine_threadsafe(
                self._outcome(source, limits, salt, claim), loop
            )
        try:
            outcome = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._check_open_or_cancelled()
            raise
        if isinstance(outcome, BytesSource):
            return outcome
        raise outcome()

    def _check_open_or_cancelled(self) -> None:
        task = asyncio.current_task()
        if self._is_closed and not (task and task.cancelling()):
            raise EngineClosedError("The engine was closed during a fetch.")

    def close(self) -> None:
        """Ends all fetches with ``EngineClosedError``, and the thread."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()

    # --- the thread ---------------------------------------------------------------------

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(loop, ready), name="sensorium-fetch", daemon=True
        )
        self._thread.start()
        ready.result()
        return loop

    def _run(self, loop: asyncio.AbstractEventLoop, ready: Future[None]) -> None:
        asyncio.set_event_loop(loop)
        pool = ThreadPoolExecutor(MAX_BLOCKING_CALLS, thread_name_prefix="sensorium-fetch")
        loop.set_default_executor(pool)
        loop.call_soon(ready.set_result, None)
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            if self._client is not None:
                loop.run_until_complete(self._client.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
            pool.shutdown(wait=False, cancel_futures=True)
            loop.close()

    # --- on the loop --------------------------------------------------------------------

    async def _outcome(
        self, source: UrlSource, limits: FetchLimits, salt: str, claim: Claim
    ) -> BytesSource | Callable[[], Exception]:
        """What crosses to the caller's loop.

        Errors and cancellations are made anew: those that were raised refer to frames, and these
        to what was received and to this task, which would refer to them.
        """
        try:
            return await self._fetch(source, limits, salt, claim)
        except RequestError as error:
            return partial(type(error), str(error))
        except MustWait:
            return MustWait
        except asyncio.CancelledError:
            pass
        raise asyncio.CancelledError

    async def _fetch(
        self, source: UrlSource, limits: FetchLimits, salt: str, claim: Claim
    ) -> BytesSource:
        scheme = scheme_of(source.url)
        if scheme in ("http", "https"):
            return await self._shared(parse_url(source.url), limits, salt, claim)
        if scheme == "file" or (not scheme and source.url.startswith("/")):
            return await self._read_local(source.url, scheme, limits, claim)
        given = f"the URL's scheme is {scheme[:20]!r}" if scheme else "the URL has no scheme"
        raise MediaError(f"{given}; allowed are http, https, data and file.")

    async def _shared(
        self, url: HttpUrl, limits: FetchLimits, salt: str, claim: Claim
    ) -> BytesSource:
        """Fetches, or takes what another fetch of the same URL brings."""
        key = (salt, url, limits)
        while (flight := self._flights.get(key)) is not None:
            outcome = await asyncio.shield(flight.result)
            if isinstance(outcome, RequestError):
                raise type(outcome)(str(outcome))
            if outcome is not None:
                await claim.take(len(outcome.data))
                return outcome
        flight = self._flights[key] = _Flight(asyncio.get_running_loop().create_future())
        try:
            source = await self._fetch_http(url, limits, claim, lambda: self._land(key, flight))
            self._land(key, flight, source)
            return source
        except RequestError as error:
            self._land(key, flight, type(error)(str(error)))
            raise
        finally:
            self._land(key, flight)

    def _land(
        self,
        key: tuple[str, HttpUrl, FetchLimits],
        flight: _Flight,
        outcome: BytesSource | RequestError | None = None,
    ) -> None:
        """Ends the sharing of a fetch; without an outcome, each waiting request fetches for
        itself."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.result.done():
            flight.result.set_result(outcome)

    async def _fetch_http(
        self, url: HttpUrl, limits: FetchLimits, claim: Claim, leave: Callable[[], None]
    ) -> BytesSource:
        """One fetch; ``leave`` as in ``_Payment``."""
        self._policy.check_url(url)
        try:
            async with asyncio.timeout(limits.timeout_s) as deadline:
                payment = _Payment(claim, deadline, leave)
                data, media_type = await self._http().get(
                    url,
                    max_bytes=limits.max_bytes,
                    pay=payment.reach,
                    place=partial(self._place, payment),
                )
        except TimeoutError:
            raise FetchError(
                f"{url.origin} didn't deliver within {limits.timeout_s:g} seconds."
            ) from None
        payment.give_back(payment.num_bytes - len(data))
        return BytesSource(data, media_type)

    @asynccontextmanager
    async def _place(self, payment: _Payment, name: str) -> AsyncIterator[None]:
        """Takes a place for a connection, the host's first, so that a slow host takes no others'
        places. Waiting for it holds no memory, and the deadline stands still."""
        payment.give_back()
        host = self._hosts[name]
        host.num_users += 1
        try:
            await payment.untimed(host.places.acquire())
            try:
                await payment.untimed(self._places.acquire())
                try:
                    yield
                finally:
                    self._places.release()
            finally:
                host.places.release()
        finally:
            host.num_users -= 1
            if host.num_users == 0:
                del self._hosts[name]

    def _http(self) -> HttpClient:
        if self._client is None:
            from sensorium.media.fetch.http import HttpClient

            self._client = HttpClient(
                self._policy, resolver=self._resolver, connector=self._connector
            )
        return self._client

    async def _read_local(
        self, url: str, scheme: str, limits: FetchLimits, claim: Claim
    ) -> BytesSource:
        if self._root is None:
            raise MediaError(
                "it is a local file, and allowed_local_media_path isn't set; set it to the folder "
                "below which files may be read."
            )
        path = _path_of(url) if scheme else url
        file = await asyncio.to_thread(self._root.open, path, limits.max_bytes)
        await claim.take(file.num_bytes)
        return await asyncio.to_thread(file.read, limits.max_bytes)


def _path_of(url: str) -> str:
    """The path of a ``file:`` URL.

    Raises:
        MediaError: the URL names another machine.
    """
    try:
        parts = urlsplit(url.strip())
        path = unquote(parts.path, errors="surrogateescape")
    except ValueError:
        raise MediaError("the file: URL is malformed; its form is file:///folder/file.") from None
    if parts.netloc.lower() not in ("", "localhost") or not path.startswith("/"):
        raise MediaError("the file: URL names no file of this machine: file:///folder/file does.")
    return path
