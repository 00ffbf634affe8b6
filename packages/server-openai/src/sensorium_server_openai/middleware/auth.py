"""``ApiKeys``: every route but ``/health``, ``/ping`` and the web page's files wants a key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from sensorium_server_openai.errors import HTTPError
from sensorium_server_openai.middleware.replies import OPEN_PATHS, route_path, send_error


class ApiKeys:
    """Compares digests of one length, all of them each time, in constant time.

    Args:
        open_paths: routes that need no key, besides ``OPEN_PATHS``.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], open_paths: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._open = OPEN_PATHS | open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (
            scope["type"] == "http"
            and (route_path(scope) in self._open or self._opens(_bearer(scope)))
        ):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            headers = {"WWW-Authenticate": "Bearer"}
            await send_error(HTTPError(401, "Unauthorized: send an API key.", None, headers), send)

    def _opens(self, token: bytes) -> bool:
        digest = hashlib.sha256(token).digest()
        matches = 0
        for known in self._digests:
            matches |= hmac.compare_digest(digest, known)
        return bool(matches)


def _bearer(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.partition(b" ")
            if kind.lower() == b"bearer":
                return bytes(token.strip())
    return b""
