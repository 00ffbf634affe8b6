"""``Bodies``: reads a request's body before its route runs, within bounds.

One bound is a request's own, one is for all requests together: the bytes count until the answer is
complete, because what they became lives so long.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensorium_server_openai.errors import HTTPError, overloaded
from sensorium_server_openai.middleware.replies import send_error
from sensorium_server_openai.options import MIB, Limits


class Bodies:
    """Hands the application the whole body as one message."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = _Held(self)
        try:
            body = await self._read(scope, receive, held)
            if body is None:
                return  # the client has gone
            await self._app(scope, _once(body, receive), send)
        except HTTPError as error:
            await send_error(error, send)
        finally:
            held.give_back()

    async def _read(self, scope: Scope, receive: Receive, held: _Held) -> bytes | None:
        declared = _content_length(scope)
        if declared is not None:
            self._check(declared)
            held.grow(declared)
        chunks: list[bytes] = []
        total = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk: bytes = message.get("body", b"")
            total += len(chunk)
            self._check(total)
            held.grow(total)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _check(self, num_bytes: int) -> None:
        allowed = self._limits.body_bytes
        if num_bytes > allowed:
            raise HTTPError(
                413,
                f"The body has more than the {allowed} bytes ({allowed / MIB:g} MiB) that this "
                "server allows.",
            )

    def take(self, num_bytes: int) -> None:
        """Counts bytes of a body.

        Raises:
            HTTPError: all bodies together would be too large.
        """
        allowed = self._limits.total_body_bytes
        if self._held_bytes + num_bytes > allowed:
            raise overloaded(
                f"The requests in progress hold {self._held_bytes} bytes; this server allows "
                f"{allowed} in all. Try again later.",
                status=503,
            )
        self._held_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Takes bytes off the count."""
        self._held_bytes -= num_bytes


class _Held:
    """One request's share of the count."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """To at least so many bytes."""
        if num_bytes > self._num_bytes:
            self._bodies.take(num_bytes - self._num_bytes)
            self._num_bytes = num_bytes

    def give_back(self) -> None:
        self._bodies.give_back(self._num_bytes)
        self._num_bytes = 0


def _once(body: bytes, receive: Receive) -> Receive:
    """The body, then whatever comes from the client: nothing, or that it has gone."""
    first: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive_once() -> Message:
        nonlocal first
        if first is not None:
            message, first = first, None
            return message
        return await receive()

    return receive_once


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return None
