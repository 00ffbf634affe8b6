"""``HttpClient``: ``http(s)`` URLs → bytes, over connections that are pinned.

``PinningBackend`` is the one place where a connection begins, for every hop, every retry and every
proxy: it resolves a name once, checks each address that came out of it and connects to one of those
addresses, so that a name is never resolved a second time. TLS still verifies the name.

The transport is httpcore2, without the client above it (httpx2): cookies, redirects, proxies from
the environment and content decoding would all have to be switched off again. No content coding is
asked for and none is decoded, so that what arrives is what was counted.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from urllib.request import getproxies, proxy_bypass

import httpcore2

from sensorium.errors import FetchError, LimitError, MediaError
from sensorium.media.fetch.addresses import Address, parse_address
from sensorium.media.fetch.policy import (
    MAX_ATTEMPTS,
    MAX_CONNECTIONS,
    MAX_REDIRECTS,
    FetchPolicy,
)
from sensorium.media.fetch.tls import Authorities, certificate_fault
from sensorium.media.fetch.url import HttpUrl, parse_url

#: name, port → addresses, in the order in which to try them
Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
#: called with the number of bytes that a body has or may reach, before they are received; may wait
#: or raise
Pay = Callable[[int], Awaitable[None]]
#: called with the host of each hop; the connection lives in its context
Place = Callable[[str], contextlib.AbstractAsyncContextManager[None]]

_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (429, 502, 503, 504)
_RETRY_PAUSE_S = 0.2
#: A body of unknown length is paid for in steps of this many bytes.
STEP_BYTES = 2**20
_HEADERS = [("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "sensorium")]


class HttpClient:
    """Connections of one engine; lives on one event loop.

    Args:
        resolver, connector: replaced in tests; by default the system's.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        *,
        resolver: Resolver | None = None,
        connector: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self._policy = policy
        self._backend = PinningBackend(
            policy, resolver or resolve_name, connector or httpcore2.AnyIOBackend()
        )
        self._authorities = Authorities()
        self._pools: dict[tuple[str, bool], httpcore2.AsyncConnectionPool] = {}

    async def get(
        self, url: HttpUrl, *, max_bytes: int, pay: Pay, place: Place
    ) -> tuple[bytes, str | None]:
        """The body behind a URL, and the media type that the server claims.

        Args:
            pay: awaited before bytes are received: with the length that the server declares, else
                step by step. A retry begins again from nothing.
            place: entered for each connection, that of a redirect as well, after the one before
                was left.

        Raises:
            FetchError: the server can't be reached, or fails.
            MediaError: the URL, a redirect or an address isn't allowed.
            LimitError: more than ``max_bytes``.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await self._follow(url, max_bytes, pay, place)
            except _Temporary as error:
                if attempt == MAX_ATTEMPTS:
                    raise FetchError(str(error)) from None
                await asyncio.sleep(_RETRY_PAUSE_S * attempt)
        raise AssertionError

    async def aclose(self) -> None:
        """Ends all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    async def _follow(
        self, url: HttpUrl, max_bytes: int, pay: Pay, place: Place
    ) -> tuple[bytes, str | None]:
        for _ in range(MAX_REDIRECTS + 1):
            self._policy.check_url(url)
            async with place(url.host), self._request(url) as response:
                location = _header(response, b"location")
                if response.status not in _REDIRECTS or location is None:
                    return await _body(url, response, max_bytes, pay)
            if not self._policy.redirects:
                raise MediaError(f"{url.origin} redirects, and redirects are switched off.")
            url = url.join(location)
        raise MediaError(f"more than {MAX_REDIRECTS} redirects, the last one to {url.origin}.")

    @contextlib.asynccontextmanager
    async def _request(self, url: HttpUrl) -> AsyncIterator[httpcore2.Response]:
        headers = [("Host", url.authority), *_HEADERS]
        if url.credentials is not None:
            token = base64.b64encode(url.credentials).decode("ascii")
            headers.append(("Authorization", f"Basic {token}"))
        pool = await self._pool(url)
        try:
            async with pool.stream("GET", url.origin + url.target, headers=headers) as response:
                yield response
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            fault = certificate_fault(error)
            if fault is not None:
                raise FetchError(f"the certificate of {url.origin} is refused: {fault}.") from None
            raise _Temporary(f"no connection to {url.origin} could be made.") from None
        except (httpcore2.ProtocolError, httpcore2.NetworkError, httpcore2.TimeoutException):
            raise _Temporary(f"the connection to {url.origin} ended before the answer.") from None
        except httpcore2.ProxyError:
            raise FetchError(f"the proxy refused to connect to {url.origin}.") from None

    async def _pool(self, url: HttpUrl) -> httpcore2.AsyncConnectionPool:
        """The pool of connections by this URL's proxy, with TLS or without."""
        proxy = self._proxy(url) if self._policy.use_proxies else ""
        needs_tls = "https" in (url.scheme, proxy.partition(":")[0].lower())
        context = await self._authorities.context() if needs_tls else None
        key = (proxy, needs_tls)
        if key not in self._pools:
            self._pools[key] = httpcore2.AsyncConnectionPool(
                ssl_context=context,
                proxy=self._backend.open_proxy(proxy, context) if proxy else None,
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS // 4,
                keepalive_expiry=5.0,
                network_backend=self._backend,
            )
        return self._pools[key]

    @staticmethod
    def _proxy(url: HttpUrl) -> str:
        """The proxy that the environment names for a URL; "" for none."""
        proxies = getproxies()
        if proxy_bypass(url.authority):
            return ""
        return proxies.get(url.scheme) or proxies.get("all") or ""


class PinningBackend(httpcore2.AsyncNetworkBackend):
    """Resolves once, checks every address, connects to an address that was checked."""

    def __init__(
        self, policy: FetchPolicy, resolver: Resolver, connector: httpcore2.AsyncNetworkBackend
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._connector = connector
        self._proxies: set[tuple[str, int]] = set()

    def open_proxy(self, text: str, context: ssl.SSLContext | None) -> httpcore2.Proxy:
        """A proxy that the operator's environment names; it may be reached wherever it is."""
        url = parse_url(text if "://" in text else f"http://{text}")
        self._proxies.add((url.host.strip("[]"), url.port))
        auth = None
        if url.credentials is not None:
            name, _, password = url.credentials.partition(b":")
            auth = (name, password)
        own = context if url.scheme == "https" else None
        return httpcore2.Proxy(url=f"{url.origin}/", auth=auth, ssl_context=own)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        host = host.strip("[]")
        literal = parse_address(host)
        addresses = [literal] if literal else await self._resolver(host, port)
        if not addresses:
            raise MediaError(f"the host {host} has no address.")
        if (host, port) not in self._proxies:
            for address in addresses:  # one private address refuses the name
                self._policy.check_address(host, address)
        last: Exception | None = None
        for address in addresses:
            try:
                return await self._connector.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
        assert last is not None
        raise last

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def resolve_name(host: str, port: int) -> Sequence[Address]:
    """The system's answer for a name.

    Raises:
        MediaError: there is no such name.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise MediaError(f"the host {host} can't be resolved.") from None
    addresses = [parse_address(str(entry[4][0])) for entry in found]
    return list(dict.fromkeys(address for address in addresses if address is not None))


class _Temporary(Exception):
    """A failure after which another attempt may succeed; its text is a sentence."""


def _headers(response: httpcore2.Response, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in response.headers if key.lower() == name]


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    return next(iter(_headers(response, name)), None)


async def _body(
    url: HttpUrl, response: httpcore2.Response, max_bytes: int, pay: Pay
) -> tuple[bytes, str | None]:
    if response.status in _BUSY:
        raise _Temporary(f"{url.origin} answered with status {response.status}.")
    if response.status != 200:
        raise FetchError(f"{url.origin} answered with status {response.status}.")
    codings = _headers(response, b"content-encoding")
    coding = ", ".join(codings).strip().lower()
    if coding not in ("", "identity"):
        raise FetchError(
            f"{url.origin} answered in the coding {coding[:20]!r}, without being asked."
        )
    declared = _declared_bytes(response)
    if declared > max_bytes:
        raise LimitError(f"its {declared} bytes are more than the {max_bytes} allowed.")
    await pay(declared)
    paid, body = declared, io.BytesIO()
    async for piece in response.aiter_stream():
        num_bytes = body.tell() + len(piece)
        if num_bytes > max_bytes:
            raise LimitError(f"it has more than the {max_bytes} bytes allowed.")
        if num_bytes > paid:
            paid = max(num_bytes, min(paid + STEP_BYTES, max_bytes))
            await pay(paid)
        body.write(piece)
    # CPython hands the buffer out as it is: nothing is copied.
    return body.getvalue(), _header(response, b"content-type")


def _declared_bytes(response: httpcore2.Response) -> int:
    text = (_header(response, b"content-length") or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
