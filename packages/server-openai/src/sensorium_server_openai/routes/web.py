"""The web page at ``/``: its files, which hold no data, and what it asks before it can chat.

The page runs no script but its own, and its policy lets it reach no host but this one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from mimetypes import guess_type

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from sensorium_server_openai.service import Service

#: Path → file in the package's folder ``web``, and its type.
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/web/page.css": ("page.css", "text/css; charset=utf-8"),
    "/web/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/web/attachments.js": ("attachments.js", "text/javascript; charset=utf-8"),
    "/web/recording.js": ("recording.js", "text/javascript; charset=utf-8"),
    "/web/stream.js": ("stream.js", "text/javascript; charset=utf-8"),
    "/web/icon.svg": ("icon.svg", guess_type("icon.svg")[0] or "text/xml"),
}
#: Paths that need no API key.
WEB_PATHS = frozenset(_FILES)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def web(service: Service) -> APIRouter:
    """The page's files, and ``/web/about``."""
    router = APIRouter()
    for path, (name, media_type) in _FILES.items():
        router.add_api_route(
            path, _file(name, media_type), methods=["GET", "HEAD"], include_in_schema=False
        )

    @router.get("/web/about")
    async def about() -> Response:
        """The model, and which files of which kinds it takes."""
        facts = service.engine.facts
        return JSONResponse(
            {
                "model": service.model,
                "task": facts.task,
                "max_model_len": facts.max_model_len,
                "max_body_bytes": service.options.limits.body_bytes,
                "media": [asdict(entry) for entry in facts.media],
            }
        )

    return router


def _file(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = files("sensorium_server_openai").joinpath("web", name).read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return answer
