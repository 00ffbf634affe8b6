"""A server on loopback that answers as it is told to, byte by byte, and a way to fetch from it.

Nothing here connects anywhere but to loopback: for tests of what happens with public and private
addresses, names are resolved by a table and ``LoopbackConnector`` notes where a connection was to
go and connects to the server instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import TracebackType
from typing import Any

import httpcore2

from sensorium.media.fetch.addresses import Address
from sensorium.media.fetch.fetcher import Fetcher, FetchLimits
from sensorium.media.fetch.policy import FetchPolicy
from sensorium.media.memory import MemoryBudget
from sensorium.types import BytesSource, UrlSource

LOOPBACK = FetchPolicy(private=True)


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived: the target of the request line, and headers by lower-case name."""

    target: str
    headers: Mapping[str, str]


#: writes the whole answer to a connection; the server closes it afterwards
Script = Callable[[Request, socket.socket], None]


def answer(
    body: bytes = b"", *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Script:
    """An honest answer, unless the headers lie."""
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    return lambda _, connection: connection.sendall(head.encode("latin-1") + body)


def redirect(location: str, status: int = 302) -> Script:
    """An answer that sends the client elsewhere."""
    return answer(status=status, headers={"Location": location})


class HostileServer:
    """Threads on a port of loopback; ``with`` ends them.

    Args:
        tls: for https.

    Attributes:
        scripts: target → what is answered; other targets get 404.
        requests: those that arrived, in order.
        released: set at the end, for scripts that wait.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.scripts: dict[str, Script] = {}
        self.requests: list[Request] = []
        self.released = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, name="hostile-server", daemon=True)

    def url(self, target: str, host: str = "127.0.0.1") -> str:
        """A URL of this server."""
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{target}"

    def __enter__(self) -> HostileServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a script of the server didn't end"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._secured(connection) as connection:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            request = Request(first.split(" ")[1], headers)
            self.requests.append(request)
            self.scripts.get(request.target, answer(status=404))(request, connection)

    def _secured(self, connection: socket.socket) -> socket.socket:
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection, server_side=True)


class Names:
    """A resolver by a table: each time a name is asked for, its next answer; the last one stays."""

    def __init__(self, **answers: Sequence[str] | Sequence[Sequence[str]]) -> None:
        self.calls: list[str] = []
        self._answers: dict[str, list[list[str]]] = {}
        for name, given in answers.items():
            rounds = [given] if given and isinstance(given[0], str) else given
            self._answers[name.replace("_", ".")] = [list(addresses) for addresses in rounds]

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.calls.append(host)
        rounds = self._answers.get(host, [[]])
        return [ip_address(text) for text in (rounds.pop(0) if len(rounds) > 1 else rounds[0])]


@dataclass
class LoopbackConnector(httpcore2.AsyncNetworkBackend):
    """Notes where connections were to go, and connects to a port of loopback instead.

    Attributes:
        port: the port.
        keeps_ports: the port asked for is taken instead.
    """

    port: int
    keeps_ports: bool = False
    connected: list[str] = field(default_factory=list)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        ip_address(host)  # a name would be resolved a second time
        self.connected.append(host)
        taken = port if self.keeps_ports else self.port
        return await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", taken)


def fetch(
    url: str | Sequence[str],
    policy: FetchPolicy = LOOPBACK,
    *,
    max_bytes: int = 2**20,
    timeout_s: float = 30.0,
    total_bytes: int = 2**30,
    resolver: Names | None = None,
    connector: LoopbackConnector | None = None,
) -> Any:
    """Fetches one URL, or several at once (their outcomes then, errors included).

    Whatever happens, the budget must have got back everything at the end.
    """

    async def all_of_them(urls: Sequence[str]) -> list[BytesSource | BaseException]:
        budget = MemoryBudget(total_bytes)
        fetcher = Fetcher(policy, resolver=resolver, connector=connector)
        leases = [budget.lease() for _ in urls]
        for lease in leases:
            await lease.begin()
        limits = FetchLimits(max_bytes, timeout_s)
        try:
            return await asyncio.gather(
                *(
                    fetcher.fetch(UrlSource(one), limits, salt="", claim=lease.claim())
                    for one, lease in zip(urls, leases, strict=True)
                ),
                return_exceptions=True,
            )
        finally:
            fetcher.close()
            budget.check_integrity()
            for lease in leases:
                lease.release()
            assert budget.stats.used_bytes == 0

    if not isinstance(url, str):
        return asyncio.run(all_of_them(url))
    (outcome,) = asyncio.run(all_of_them([url]))
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
