"""The server's HTTP protocol: uvicorn's over httptools, with bounds that it lacks.

    connection ─ headers (bytes, number, time) ─ body (time, pace) ─ answer (time) ─ idle (time) ─ …

A client that stays below a bound notices nothing; one that doesn't is told the status and cut off.
A client that has stopped reading its answer can't be told anything and is only cut off.
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
        self._unread_timer: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._in_body = False
        self._header_bytes = 0
        self._body_bytes = 0
        self._rest_bytes = 0
        self._trailer_bytes = 0
        self._body_begun_s = 0.0
        self._refused = False

    # --- what comes from the client ---------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's headers must come now."""
        super().connection_made(transport)
        self._arm_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timers with the connection."""
        self._disarm()
        self._disarm_unread()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses; headers and trailers that are not complete yet are counted by what has come."""
        if self._refused or self.parser is None:
            return
        in_body, num_before = self._in_body, self._body_bytes
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            self._check_header_bytes()
        elif in_body and self._in_body and self._body_bytes == num_before:
            self._trailer_bytes += len(data)
            self._check_trailer_bytes()
        else:
            self._trailer_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header; what follows a chunked body is nobody's."""
        if self._in_headers:
            super().on_header(name, value)

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
        self._body_bytes = self._rest_bytes = self._trailer_bytes = 0
        self._body_begun_s = self.loop.time()
        self._timer = self.loop.call_later(self.limits.body_s, self._check_pace)
        super().on_headers_complete()
        self._in_body = True

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
        self._in_body = False
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What can't be parsed is refused in the shape of all errors."""
        self._refuse(400, "This is no valid HTTP request.")

    # --- what goes to the client ------------------------------------------------------

    def pause_writing(self) -> None:
        """The client doesn't read as fast as the answer comes."""
        super().pause_writing()
        self._arm_unread()

    def resume_writing(self) -> None:
        """The client has read on."""
        super().resume_writing()
        self._disarm_unread()

    def on_response_complete(self) -> None:
        """The answer has been written; where the connection ends with it, it must be read, too."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._arm_unread()

    def timeout_keep_alive_handler(self) -> None:
        """The connection has been idle; what is left of an answer must be read."""
        super().timeout_keep_alive_handler()
        self._arm_unread()

    # --- bounds -----------------------------------------------------------------------

    def _check_header_bytes(self) -> None:
        allowed = self.limits.header_bytes
        if self._header_bytes > allowed:
            self._refuse(431, f"The request line and headers have more than {allowed} bytes.")

    def _check_trailer_bytes(self) -> None:
        allowed = self.limits.header_bytes
        if self._trailer_bytes > allowed:
            self._refuse(431, f"More than {allowed} bytes have come between pieces of the body.")

    def _check_pace(self) -> None:
        took_s = self.loop.time() - self._body_begun_s
        # While an earlier request of the connection is answered, nothing is read.
        if self.pipeline or self._body_bytes >= took_s * _BYTES_PER_S:
            self._timer = self.loop.call_later(self.limits.body_s, self._check_pace)
        else:
            self._refuse(408, "The request's body came too slowly.")

    def _arm_headers(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.limits.header_s, self._headers_late)

    def _headers_late(self) -> None:
        if self._is_answering_before():
            self._arm_headers()
        elif self._header_bytes or self.headers:
            self._refuse(408, "The request's headers came too slowly.")
        else:
            self._cut()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm_unread(self) -> None:
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self.limits.body_s, self.transport.abort)

    def _disarm_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answers and cuts off; or cuts off alone, where the client would read another answer."""
        if self._refused:
            return
        if self._is_answering_before() or (self._in_body and self.cycle.response_started):
            self._cut()
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

    def _is_answering_before(self) -> bool:
        """Whether an earlier request of this connection has not been answered to the end."""
        if self._in_body:  # the latest cycle is this request's own
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _cut(self) -> None:
        self._refused = True
        self._disarm()
        self.transport.close()
        self._arm_unread()
