"""``build_app``: the ASGI application around an engine.

Boundary (name, log, errors) → CORS → API keys → gate → bodies → routes
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from sensorium import __version__
from sensorium_server_openai.engine_port import Engine
from sensorium_server_openai.errors import HTTPError
from sensorium_server_openai.loop_lag import watch_lag
from sensorium_server_openai.metrics import Metrics
from sensorium_server_openai.middleware.auth import ApiKeys
from sensorium_server_openai.middleware.bodies import Bodies
from sensorium_server_openai.middleware.boundary import Boundary
from sensorium_server_openai.middleware.gate import Gate, GateState
from sensorium_server_openai.options import ServerOptions
from sensorium_server_openai.protocol.base import Body
from sensorium_server_openai.protocol.chat import ChatRequest
from sensorium_server_openai.protocol.completions import CompletionRequest
from sensorium_server_openai.protocol.embeddings import EmbeddingRequest
from sensorium_server_openai.protocol.tokens import DetokenizeRequest, TokenizeRequest
from sensorium_server_openai.routes.chat import chat
from sensorium_server_openai.routes.completions import completions
from sensorium_server_openai.routes.embeddings import embeddings
from sensorium_server_openai.routes.operations import operations
from sensorium_server_openai.routes.tokens import detokenize, tokenize
from sensorium_server_openai.routes.web import WEB_PATHS, web
from sensorium_server_openai.service import Handler, Service, make_route
from sensorium_server_openai.tools.registry import load_parser
from sensorium_server_openai.tracing import Tracing

#: Path → what its body must be, and who answers.
_POSTS: dict[str, tuple[type[Body], Handler[Any]]] = {
    "/v1/chat/completions": (ChatRequest, chat),
    "/v1/completions": (CompletionRequest, completions),
    "/v1/embeddings": (EmbeddingRequest, embeddings),
    "/tokenize": (TokenizeRequest, tokenize),
    "/detokenize": (DetokenizeRequest, detokenize),
}


def build_app(
    engine: Engine,
    options: ServerOptions,
    *,
    gate: GateState | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application; it closes the engine, and ``tracing``, when it is shut down.

    Raises:
        ConfigError: a tool parser that doesn't exist or doesn't work.
    """
    metrics = Metrics(options.served_model_names[0])
    parser = None
    if options.tool_parser is not None:
        found = load_parser(options.tool_parser)
        parser = found if options.auto_tool_choice else None
    service = Service(engine, options, metrics, gate or GateState(), parser)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lag = asyncio.create_task(watch_lag(metrics.histograms["event_loop_lag_seconds"]))
        yield
        lag.cancel()
        await asyncio.to_thread(engine.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="Sensorium",
        version=__version__,
        docs_url=None,  # both pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(operations(service))
    if options.web:
        app.include_router(web(service))
    for path, (model, handler) in _POSTS.items():
        app.router.add_api_route(
            path,
            make_route(service, model, handler),
            route_class_override=_PlainRoute,
            methods=["POST"],
            response_model=None,
            openapi_extra=_described(model),
        )
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    _add_layers(app, service, tracing)
    return app


class _PlainRoute(APIRoute):
    """Calls its endpoint with the request, which is all that it takes.

    FastAPI's own handler looks for parameters first, and reads the query for them: a tenth of what
    a small request costs.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def _add_layers(app: FastAPI, service: Service, tracing: Tracing | None) -> None:
    """From the innermost to the outermost."""
    options = service.options
    app.add_middleware(Bodies, limits=options.limits)
    app.add_middleware(
        Gate,
        state=service.gate,
        allowed=options.limits.concurrent_requests,
        metrics=service.metrics,
    )
    if options.api_keys:
        open_paths = WEB_PATHS if options.web else frozenset()
        app.add_middleware(ApiKeys, keys=options.api_keys, open_paths=open_paths)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(
        Boundary,
        metrics=service.metrics,
        answer_name=options.request_id_headers,
        log_format=options.log_format,
        tracing=tracing,
    )


async def _answer_http_exception(_: Request, error: Exception) -> Response:
    """Starlette's own: no such route, no such method."""
    assert isinstance(error, HTTPException)
    words = {404: "There is no such route.", 405: "This route doesn't take this method."}
    message = words.get(error.status_code, str(error.detail))
    return HTTPError(error.status_code, message, None, dict(error.headers or {})).response()


# --- OpenAPI --------------------------------------------------------------------------


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "integer", "description": "the status"},
            },
        }
    },
}


def _described(model: type[Body]) -> dict[str, Any]:
    """What a route's body must be, and that an answer may be a stream."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    found: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
    }
    if "stream" in model.model_fields:
        events = {"text/event-stream": {"schema": {"type": "string"}}}
        found["responses"] = {"200": {"content": events}}
    return found


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description with the bodies and errors that it isn't told of, made once."""
    if app.openapi_schema is None:
        described = FastAPI.openapi(app)
        _, definitions = models_json_schema(
            [(model, "validation") for model, _ in _POSTS.values()],
            ref_template="#/components/schemas/{model}",
        )
        components = described.setdefault("components", {}).setdefault("schemas", {})
        components.update(definitions["$defs"])
        components["Error"] = _ERROR
        error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        for operations in described["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # FastAPI's own, which isn't answered
                operation["responses"]["default"] = {"description": "An error", "content": error}
        app.openapi_schema = described
    return app.openapi_schema
