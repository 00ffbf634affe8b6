"""Answers that are given before a route is reached."""

from __future__ import annotations

import json

from starlette.types import Scope, Send

from sensorium_server_openai.errors import HTTPError

#: What a load balancer asks, which has no key and must always be answered.
OPEN_PATHS = frozenset({"/health", "/ping"})


async def send_error(error: HTTPError, send: Send) -> None:
    """Sends an error as the whole answer."""
    body = json.dumps(error.body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((k.lower().encode(), v.encode()) for k, v in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def route_path(scope: Scope) -> str:
    """The path as routes see it, without a proxy's prefix."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :]
    return path
