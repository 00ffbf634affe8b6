"""The server's HTTP protocol: uvicorn's over httptools, with bounds that it lacks.

    connection ─ headers (bytes, number, time) ─ body (time, pace) ─ answer ─ idle (time) ─ …

A client that stays below a bound notices nothing; one that doesn't is told the status and cut off.
The number of bytes of a body is the application's business (``middleware/bodies.py``).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sensorium_server_openai.errors import HTTPError
from sensorium_server_openai.options import Limits

#: A body that takes longer than ``body_s`` must have come at this pace.
_BYTES_PER_S = 16 * 1024
#: What may follow of a body whose answer has been given already.
_MAX_REST_BYTES = 256 * 2**20


def protocol_of(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol with these limits."""
    return type("LimitedProtocol", (GuardedProtocol,), {"limits": limits})


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._header_bytes = 0
        self._body_bytes = 0
        self._rest_bytes = 0
        self._body_begun_s = 0.0
        self._refused = False

    # --- what comes from the client ---------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's headers must come now."""
        super().connection_made(transport)
        self._arm_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timer with the connection."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses; headers that are not complete yet are counted by what has come."""
        if self._refused or self.parser is None:
            return
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            self._check_header_bytes()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = 0
        self._arm_headers()

    def on_headers_complete(self) -> None:
        """The request begins, unless its headers are too much."""
        self._in_headers = False
        self._disarm()
        exact = len(self.url) + sum(len(k) + len(v) + 4 for k, v in self.headers)
        self._header_bytes = exact
        if len(self.headers) > self.limits.headers:
            self._refuse(
                431, f"The request has more than {self.limits.headers} headers, the most allowed."
            )
        self._check_header_bytes()
        if self._refused:
            return
        self._body_bytes = self._rest_bytes = 0
        self._body_begun_s = self.loop.time()
        self._timer = self.loop.call_later(self.limits.body_s, self._check_pace)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """More of the body."""
        if self._refused:
            return
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._rest_bytes += len(body)
            if self._rest_bytes > _MAX_REST_BYTES:
                self._cut()
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body has come."""
        if self._refused:
            return
        self._disarm()
        super().on_message_complete()

    # --- bounds -----------------------------------------------------------------------

    def _check_header_bytes(self) -> None:
        allowed = self.limits.header_bytes
        if self._header_bytes > allowed:
            self._refuse(431, f"The request line and headers have more than {allowed} bytes.")

    def _check_pace(self) -> None:
        took_s = self.loop.time() - self._body_begun_s
        if self._body_bytes >= took_s * _BYTES_PER_S:
            self._timer = self.loop.call_later(self.limits.body_s, self._check_pace)
        elif self.cycle is not None and self.cycle.response_started:
            self._cut()
        else:
            self._refuse(408, "The request's body came too slowly.")

    def _arm_headers(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.limits.header_s, self._headers_late)

    def _headers_late(self) -> None:
        if self._header_bytes or self.headers:
            self._refuse(408, "The request's headers came too slowly.")
        else:
            self._cut()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, message: str) -> None:
        if self._refused:
            return
        body = json.dumps(HTTPError(status, message).body()).encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        self._cut()

    def _cut(self) -> None:
        self._refused = True
        self._disarm()
        self.transport.close()
