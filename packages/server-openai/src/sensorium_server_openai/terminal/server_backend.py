"""``ServerBackend``: a server that speaks OpenAI's API, ours or another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from json import JSONDecodeError
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from sensorium import ConfigError
from sensorium.errors import RequestError
from sensorium_server_openai.terminal.backend import Messages, Options, Piece

_PATIENCE_S = 600.0
_ERROR_BYTES = 64 * 1024


class ServerBackend:
    """Asks the server over HTTP.

    Args:
        url: of the server, with or without ``/v1``.
        key: sent as a bearer token; None: none is.
        model: what the server calls it; None: the first that it serves.

    Raises:
        ConfigError: no address, or a server that serves no model.
        RequestError: the server can't be reached, or doesn't answer as it should.
    """

    def __init__(self, url: str, key: str | None, model: str | None) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"--url is {url!r}; it must be like http://127.0.0.1:8000.")
        self._base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self.model = model or self._first_model()

    def answer(self, messages: Messages, options: Options) -> Iterator[Piece]:
        """See ``Backend.answer``."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_completion_tokens": options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.temperature is not None:
            body["temperature"] = options.temperature
        with self._open("/chat/completions", json.dumps(body).encode()) as response:
            for event in _events(response):
                yield from _read(event)

    def close(self) -> None:
        """See ``Backend.close``; connections end with their answers."""

    def _first_model(self) -> str:
        with self._open("/models", None) as response:
            try:
                return str(json.load(response)["data"][0]["id"])
            except (OSError, HTTPException, ValueError, LookupError, TypeError):
                raise ConfigError(f"{self._base}/models lists no model.") from None

    def _open(self, path: str, body: bytes | None) -> HTTPResponse:
        request = Request(self._base + path, data=body, headers=self._headers)
        try:
            response: HTTPResponse = urlopen(request, timeout=_PATIENCE_S)
        except HTTPError as error:
            with error:
                raise RequestError(_sentence(error)) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise RequestError(f"{self._base} can't be reached: {reason}.") from None
        return response


def _events(response: HTTPResponse) -> Iterator[Any]:
    """The events of a stream until ``[DONE]``."""
    try:
        for line in response:
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if line.startswith(b"data:"):
                yield json.loads(data)
    except (OSError, HTTPException, JSONDecodeError) as error:
        raise RequestError(f"The answer was cut off: {type(error).__name__}.") from None
    raise RequestError("The answer was cut off: the connection ended.")


def _read(event: Any) -> Iterator[Piece]:
    if "error" in event:
        raise RequestError(str(event["error"].get("message")))
    usage = event.get("usage")
    for choice in event.get("choices") or ():
        if text := (choice.get("delta") or {}).get("content"):
            yield Piece(text)
    if usage:
        yield Piece("", usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _sentence(error: HTTPError) -> str:
    """What the server says is wrong; a proxy may have answered in its place."""
    try:
        return str(json.loads(error.read(_ERROR_BYTES))["error"]["message"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return f"The server answered {error.code}."
