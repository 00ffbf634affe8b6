"""From an exception to an answer in OpenAI's error shape.

{"error": {"message": …, "type": …, "param": …, "code": the HTTP status}}
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from sensorium import errors
from sensorium_server_openai.flow import ServerEnding

logger = logging.getLogger("sensorium.server")

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    424: "FailedDependencyError",
    429: "RateLimitError",
    431: "RequestTooLargeError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_PATH = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+[\w.+-]*")
_RETRY_S = 1.0
#: Characters of a message that are kept of its beginning, and of its end, which says what to do.
_HEAD, _TAIL = 700, 250


@dataclass
class HTTPError(Exception):
    """An answer that is no success.

    Attributes:
        param: the field that is to blame.
        headers: besides the usual ones.
    """

    status: int
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {
            "error": {
                "message": _ADDRESS.sub("…", _clipped(self.message)),
                "type": _TYPES.get(self.status, "APIError"),
                "param": None if self.param is None else _clipped(self.param),
                "code": self.status,
            }
        }

    def response(self) -> Response:
        """The answer itself."""
        return Response(
            json.dumps(self.body()),
            self.status,
            headers=dict(self.headers),
            media_type="application/json",
        )


def _clipped(message: str) -> str:
    """A message without most of what a request wrote into it at length."""
    if len(message) <= _HEAD + _TAIL:
        return message
    return f"{message[:_HEAD]} … {message[-_TAIL:]}"


def bad_request(message: str, param: str | None = None) -> HTTPError:
    """A request that can't be served, whose field ``param`` is to blame."""
    return HTTPError(400, message, param)


def overloaded(message: str, *, status: int = 429, retry_s: float = _RETRY_S) -> HTTPError:
    """Too much at once; the client is told when to come again."""
    return HTTPError(status, message, headers={"Retry-After": str(max(1, math.ceil(retry_s)))})


def ending() -> HTTPError:
    """The server ends; another may take its place."""
    return overloaded("The server is ending.", status=503)


def http_error(error: BaseException, request_id: str) -> HTTPError:
    """What a client is told of an exception; what is nobody's plan is logged with its trace."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, errors.FetchError):
        return HTTPError(424, str(error))
    if isinstance(error, errors.RequestError):
        return bad_request(str(error))
    if isinstance(error, TimeoutError):
        return HTTPError(504, "The request took longer than this server allows.")
    if isinstance(error, errors.MissingPluginError):
        # It says what the request says, which no log has.
        return bad_request(_PATH.sub("…", str(error)))
    if isinstance(error, errors.PluginError):
        # What a broken plugin said of itself may name files.
        logger.warning("request %s: %s", request_id, _clipped(str(error)))
        return bad_request(_PATH.sub("…", str(error)))
    if isinstance(error, errors.OverloadedError):
        return overloaded(str(error), retry_s=error.retry_after_s)
    if isinstance(error, (errors.EngineClosedError, errors.EngineDeadError)):
        return overloaded(str(error), status=503)
    if isinstance(error, ServerEnding):
        return ending()
    if isinstance(error, errors.EngineError):
        return HTTPError(500, str(error))
    logger.error("request %s failed", request_id, exc_info=error)
    return HTTPError(500, f"The server failed; its log has the request {request_id}.")
