"""``Gate``: how many requests are answered at once, and none any more when the server ends."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from sensorium_server_openai.errors import ending, overloaded
from sensorium_server_openai.metrics import Metrics
from sensorium_server_openai.middleware.replies import OPEN_PATHS, route_path, send_error


class GateState:
    """What the gate and the rest of the server know in common.

    Attributes:
        draining: whether new requests are refused because the server is ending.
        running: requests that are being answered.
    """

    def __init__(self) -> None:
        self.draining = False
        self.running = 0


class Gate:
    """Turns requests that make work (POST) away when there are too many of them."""

    def __init__(self, app: ASGIApp, *, state: GateState, allowed: int, metrics: Metrics) -> None:
        self._app = app
        self._state = state
        self._allowed = allowed
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        makes_work = scope["type"] == "http" and scope["method"] == "POST"
        if not makes_work or route_path(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if self._state.draining:
            self._metrics.rejections("draining").inc()
            await send_error(ending(), send)
            return
        if self._state.running >= self._allowed:
            self._metrics.rejections("concurrency").inc()
            await send_error(
                overloaded(f"{self._allowed} requests are being answered, as many as allowed."),
                send,
            )
            return
        self._state.running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._state.running -= 1
