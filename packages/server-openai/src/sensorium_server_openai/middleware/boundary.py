"""``Boundary``: the outermost layer. A request gets its name, is counted, timed and logged.

A line of the log has the request's name, method, route, status and time; never a body, a prompt, a
query or a header.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensorium_server_openai.errors import ending, http_error
from sensorium_server_openai.metrics import Metrics
from sensorium_server_openai.middleware.replies import send_error
from sensorium_server_openai.tracing import Tracing

logger = logging.getLogger("sensorium.server")

_NAME = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_PLAIN = re.compile(r"[A-Za-z0-9._:/{}-]*")
_QUIET = ("/health", "/ping", "/metrics")


class Boundary:
    """Names, counts and logs requests, and answers what nobody else has answered.

    Args:
        answer_name: whether the name is answered as ``X-Request-Id``.
        log_format: "text" or "json".
        tracing: makes spans of requests; None: nobody traces.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        answer_name: bool,
        log_format: str,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._answer_name = answer_name
        self._as_json = log_format == "json"
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = _request_name(scope)
        scope.setdefault("state", {})["request_id"] = name
        if self._tracing is not None:
            scope["state"]["trace"] = self._tracing.begin(scope["method"], scope["headers"])
        begun_s = time.monotonic()
        status = 0

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._answer_name:
                    message["headers"] = [
                        *message.get("headers", ()),
                        (b"x-request-id", name.encode()),
                    ]
            await send(message)

        try:
            await self._app(scope, receive, named_send)
        except Exception as error:
            if status:
                raise
            await send_error(http_error(error, name), named_send)
        except asyncio.CancelledError:  # uvicorn's, when the time of ``--shutdown-timeout`` is over
            if not status:
                await send_error(ending(), named_send)
        finally:
            self._report(scope, name, status, time.monotonic() - begun_s)

    def _report(self, scope: Scope, name: str, status: int, took_s: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "unknown")
        method = scope["method"] if path != "unknown" else "unknown"
        if self._tracing is not None:
            facts = {"sensorium.request_id": name, "gen_ai.request.model": self._metrics.model_name}
            scope["state"]["trace"].end(method, path, status, **facts)
        self._metrics.http_requests(method, path, str(status or "gone")).inc()
        fields: dict[str, Any] = {
            "request_id": name,
            "method": method,
            "route": path,
            "status": status or None,
            "seconds": round(took_s, 4),
            **scope["state"].get("log", {}),
        }
        level = logging.DEBUG if path in _QUIET and status == 200 else logging.INFO
        if self._as_json:
            logger.log(level, "%s", json.dumps(fields))
        else:
            logger.log(level, "%s", " ".join(f"{k}={_shown(v)}" for k, v in fields.items()))


def _shown(value: Any) -> str:
    """A value on a line of text; one that a client chose can't end the line or forge a field."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _request_name(scope: Scope) -> str:
    """The client's own, if it is one that may stand in a log and a header."""
    for key, value in scope["headers"]:
        if key == b"x-request-id" and _NAME.fullmatch(value):
            return str(value.decode())
    return uuid.uuid4().hex
