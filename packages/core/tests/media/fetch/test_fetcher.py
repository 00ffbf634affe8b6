"""Sharing, bounds, deadlines, retries and ends of fetches, against a server on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from hostile_server import LOOPBACK, HostileServer, Names, Request, answer, fetch, redirect

from sensorium.errors import EngineClosedError, FetchError, LimitError, MediaError
from sensorium.media.fetch.fetcher import Fetcher, FetchLimits
from sensorium.media.fetch.policy import MAX_CONNECTIONS_PER_HOST, FetchPolicy
from sensorium.media.memory import Claim, MemoryBudget, MustWait
from sensorium.types import BytesSource, UrlSource

LIMITS = FetchLimits(2**20, 60.0)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    """A server that answers /note and 404."""
    with HostileServer() as server:
        server.scripts["/note"] = answer(b"hello", headers={"Content-Type": "text/note"})
        yield server


class Gate:
    """An answer that is given when the gate opens."""

    def __init__(self, body: bytes = b"hello") -> None:
        self.begun = threading.Semaphore(0)
        self.opened = threading.Event()
        self._body = body

    def __call__(self, request: Request, connection: socket.socket) -> None:
        self.begun.release()
        assert self.opened.wait(60)
        answer(self._body)(request, connection)


async def claim_of(budget: MemoryBudget) -> Claim:
    lease = budget.lease()
    await lease.begin()
    return lease.claim()


def test_bytes_and_the_claimed_type(server: HostileServer) -> None:
    assert fetch(server.url("/note")) == BytesSource(b"hello", "text/note")
    (request,) = server.requests
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers


def test_credentials_go_to_their_own_host_and_nowhere_else(server: HostileServer) -> None:
    server.scripts["/away"] = redirect(server.url("/note"))
    fetch(server.url("/away", host="user:p%40ss@127.0.0.1"))
    first, second = server.requests
    assert first.headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert "authorization" not in second.headers


def test_statuses_are_named_without_body_or_query(server: HostileServer) -> None:
    server.scripts["/x?token=secret"] = answer(b"secret body", status=403)
    with pytest.raises(MediaError, match=r"^http://127\.0\.0\.1:\d+ answered with status 403\.$"):
        fetch(server.url("/x?token=secret", host="user:secret@127.0.0.1"))
    with pytest.raises(MediaError, match="answered with status 404"):
        fetch(server.url("/none"))
    assert len(server.requests) == 2, "these aren't tried again"


def test_a_busy_server_is_asked_again(server: HostileServer) -> None:
    left = [503, 429]

    def busy(request: Request, connection: socket.socket) -> None:
        answer(b"late", status=left.pop() if left else 200)(request, connection)

    server.scripts["/busy"] = busy
    assert fetch(server.url("/busy")).data == b"late"
    assert len(server.requests) == 3
    server.scripts["/busy"] = answer(status=503)
    with pytest.raises(MediaError, match="answered with status 503"):
        fetch(server.url("/busy"))
    assert len(server.requests) == 6


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MediaError, match=r"no connection to http://127\.0\.0\.1:.* could be made"):
        fetch(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("url", ["ftp://a/b", "gopher:x", "no-scheme", "", "://", "\\\\host\\x"])
def test_other_schemes(url: str) -> None:
    with pytest.raises(MediaError, match="allowed are http, https, data and file"):
        fetch(url)


async def test_equal_urls_in_flight_are_fetched_once_within_a_salt(server: HostileServer) -> None:
    gate = server.scripts["/gate"] = Gate()
    budget, fetcher = MemoryBudget(2**30), Fetcher(LOOPBACK)
    claims = [await claim_of(budget) for _ in range(5)]
    salts = ["a", "a", "a", "b", "a"]
    url = server.url("/gate")
    spellings = [url, url + "#x", url.replace("/gate", "/./gate"), url, url.upper().lower()]
    tasks = [
        asyncio.ensure_future(fetcher.fetch(UrlSource(one), LIMITS, salt=salt, claim=claim))
        for one, salt, claim in zip(spellings, salts, claims, strict=True)
    ]
    for _ in range(2):
        await asyncio.to_thread(gate.begun.acquire)
    # All five have reached the fetcher's loop before this call has.
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), fetcher._loop))  # type: ignore[arg-type]
    gate.opened.set()
    sources = await asyncio.gather(*tasks)
    assert {source.data for source in sources} == {b"hello"}
    assert len(server.requests) == 2
    assert [claim.num_bytes for claim in claims] == [5] * 5, "each pays for what it holds"
    fetcher.close()


async def test_who_shares_is_not_harmed_by_a_cancelled_owner(server: HostileServer) -> None:
    gate = server.scripts["/gate"] = Gate()
    budget, fetcher = MemoryBudget(2**30), Fetcher(LOOPBACK)
    claims = [await claim_of(budget) for _ in range(2)]
    first, second = (
        asyncio.ensure_future(
            fetcher.fetch(UrlSource(server.url("/gate")), LIMITS, salt="", claim=claim)
        )
        for claim in claims
    )
    await asyncio.to_thread(gate.begun.acquire)
    first.cancel()
    await asyncio.to_thread(gate.begun.acquire)  # the second asks for itself
    gate.opened.set()
    assert (await second).data == b"hello"
    with pytest.raises(asyncio.CancelledError):
        await first
    fetcher.close()


def test_failures_are_shared(server: HostileServer) -> None:
    outcomes = fetch([server.url("/none")] * 4)
    assert [type(outcome) for outcome in outcomes] == [FetchError] * 4
    assert len({id(outcome) for outcome in outcomes}) == 4


@pytest.mark.parametrize("is_redirected", [False, True])
def test_one_host_has_so_many_connections(server: HostileServer, is_redirected: bool) -> None:
    """Whether its own URLs lead there, or those of as many other hosts."""
    gate = Gate()
    targets = [f"/{index}" for index in range(MAX_CONNECTIONS_PER_HOST + 5)]
    urls = [server.url(target) for target in targets]
    addresses = {f"host{target[1:]}_test": ["127.0.0.1"] for target in targets}
    if is_redirected:
        urls = [server.url(f"/to{to}", host=f"host{to[1:]}.test") for to in targets]
    for target in targets:
        server.scripts[target] = gate
        server.scripts[f"/to{target}"] = redirect(server.url(target))
    counted: list[int] = []

    def watch() -> None:
        for _ in range(MAX_CONNECTIONS_PER_HOST):
            assert gate.begun.acquire(timeout=60)
        with HostileServer() as other:  # another host's name isn't kept waiting
            other.scripts["/note"] = answer(b"other")
            assert fetch(other.url("/note")).data == b"other"
        counted.append(sum(request.target in targets for request in server.requests))
        gate.opened.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    outcomes = fetch(urls, resolver=Names(**addresses))
    watcher.join(60)
    assert [outcome.data for outcome in outcomes] == [b"hello"] * len(targets)
    assert counted == [MAX_CONNECTIONS_PER_HOST]


async def test_bytes_are_taken_as_they_come_and_a_younger_request_gives_up(
    server: HostileServer,
) -> None:
    server.scripts["/open"] = answer(b"x" * 3_000_000, headers={"Content-Length": "3000000"})
    budget, fetcher = MemoryBudget(2_000_000), Fetcher(LOOPBACK)
    older, younger = await claim_of(budget), await claim_of(budget)
    source = UrlSource(server.url("/open"))
    limits = FetchLimits(2**23, 60.0)
    with pytest.raises(LimitError, match=r"need 3000000 bytes .* media_memory_gb allows 2000000"):
        await fetcher.fetch(source, limits, salt="", claim=younger)
    assert older.try_take(1_500_000)
    server.scripts["/open"] = answer(b"x" * 1_000_000)
    with pytest.raises(MustWait):
        await fetcher.fetch(source, limits, salt="", claim=younger)
    budget.check_integrity()
    fetcher.close()


async def test_closing_ends_fetches(server: HostileServer) -> None:
    gate = server.scripts["/gate"] = Gate()
    budget, fetcher = MemoryBudget(2**30), Fetcher(LOOPBACK)
    claim = await claim_of(budget)
    task = asyncio.ensure_future(
        fetcher.fetch(UrlSource(server.url("/gate")), LIMITS, salt="", claim=claim)
    )
    await asyncio.to_thread(gate.begun.acquire)
    await asyncio.to_thread(fetcher.close)
    gate.opened.set()
    with pytest.raises(EngineClosedError):
        await task
    with pytest.raises(EngineClosedError):
        await fetcher.fetch(UrlSource(server.url("/note")), LIMITS, salt="", claim=claim)


def test_proxies_only_where_the_operator_asks(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HostileServer() as proxy:
        proxy.scripts[server.url("/note")] = answer(b"by proxy")
        proxy.scripts["http://media.example/x"] = answer(b"a name for the proxy to resolve")
        monkeypatch.setenv("http_proxy", proxy.url(""))
        monkeypatch.setenv("no_proxy", "")
        assert fetch(server.url("/note")).data == b"hello"
        through = FetchPolicy(private=True, use_proxies=True)
        assert fetch(server.url("/note"), through).data == b"by proxy"
        careful = FetchPolicy(use_proxies=True)
        assert fetch("http://media.example/x", careful).data.startswith(b"a name")
        with pytest.raises(MediaError, match="isn't on the public Internet"):
            fetch(server.url("/note"), careful)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetch(server.url("/note"), through).data == b"hello"
