"""What operators and their tools ask: models, health, version, figures."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from sensorium import __version__
from sensorium_server_openai.answers.head import json_response
from sensorium_server_openai.errors import HTTPError
from sensorium_server_openai.service import Service

_NOT_SERVING: dict[int | str, dict[str, Any]] = {503: {"description": "Requests aren't answered"}}


def operations(service: Service) -> APIRouter:
    """The routes without a body."""
    router = APIRouter()
    created = int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "sensorium",
            "root": service.engine.facts.name,
            "parent": None,
            "max_model_len": service.engine.facts.max_model_len,
            "permission": [],
        }

    @router.get("/v1/models")
    async def models() -> Response:
        """The model under each of its names."""
        cards = [card(name) for name in service.options.served_model_names]
        return json_response({"object": "list", "data": cards})

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """The model, if it has this name."""
        if name not in service.options.served_model_names:
            return HTTPError(404, f"There is no model {name[:200]!r} here.", "model").response()
        return json_response(card(name))

    @router.head("/health", include_in_schema=False)
    @router.head("/ping", include_in_schema=False)
    @router.get("/health", response_class=Response, responses=_NOT_SERVING)
    @router.get("/ping", response_class=Response, responses=_NOT_SERVING)
    @router.post("/ping", response_class=Response, responses=_NOT_SERVING)
    async def health() -> Response:
        """200 while requests are answered."""
        if service.engine.is_healthy and not service.gate.draining:
            return Response(status_code=200)
        return Response(status_code=503)

    @router.get("/version")
    async def version() -> Response:
        """The engine's version."""
        return json_response({"version": __version__})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures, as Prometheus reads them."""
        service.metrics.in_flight.set(service.gate.running)
        text = service.metrics.text(await service.engine.stats())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
