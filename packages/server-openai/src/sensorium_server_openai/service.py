"""``Service``: what every route has at hand; and how a route is made of a handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from sensorium import SamplingParams
from sensorium_server_openai.answers.head import event
from sensorium_server_openai.engine_port import Engine
from sensorium_server_openai.errors import HTTPError, http_error
from sensorium_server_openai.flow import ClientGone, until_gone
from sensorium_server_openai.metrics import Metrics
from sensorium_server_openai.middleware.gate import GateState
from sensorium_server_openai.observation import Observation
from sensorium_server_openai.options import ServerOptions
from sensorium_server_openai.protocol.base import Body, parse_body
from sensorium_server_openai.tools.reading import AnswerReader
from sensorium_server_openai.tracing import RequestTrace

#: Bodies up to this size are parsed at once; larger ones on a thread.
_SMALL_BYTES = 64 * 1024
_CLIENT_GONE = 499


@dataclass(frozen=True, slots=True)
class Service:
    """One server.

    Attributes:
        parser: finds tool calls in answers; None: ``tool_choice: "auto"`` is refused.
    """

    engine: Engine
    options: ServerOptions
    metrics: Metrics
    gate: GateState
    parser: type[AnswerReader] | None = None

    @property
    def model(self) -> str:
        """What answers call the model."""
        return self.options.served_model_names[0]

    def check_model(self, name: str | None) -> None:
        """Refuses a model that isn't here."""
        if name is not None and name not in self.options.served_model_names:
            served = ", ".join(self.options.served_model_names)
            raise HTTPError(
                404, f"There is no model {name[:200]!r} here; this server has {served}.", "model"
            )

    def check_task(self, task: str, route: str) -> None:
        """Refuses what the model wasn't loaded for."""
        loaded = self.engine.facts.task
        if loaded != task:
            raise HTTPError(
                404, f"{route} needs a model that was loaded to {task}; this one {loaded}s."
            )

    def observe(self, call: Call, sampling: SamplingParams) -> Observation:
        """Begins to time a prompt."""
        return Observation(self.metrics, sampling, call.trace)


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way.

    Attributes:
        name: of the request, in the log and in ``X-Request-Id``.
        deadline_s: of the event loop's clock; None: no limit.
        log: what the log's line of this request says besides.
        trace: its spans; None: nobody traces.
    """

    name: str
    deadline_s: float | None
    log: dict[str, Any]
    trace: RequestTrace | None = None

    def tell_error(self, error: Exception) -> bytes:
        """An error inside a stream that has begun."""
        return event(http_error(error, self.name).body())


B = TypeVar("B", bound=Body)
Handler = Callable[[Service, B, Call], Awaitable[Response]]
Route = Callable[[Request], Awaitable[Response]]


def make_route(service: Service, model: type[B], handler: Handler[B]) -> Route:
    """A route that parses the body, watches client and time, and answers errors."""
    seconds = service.options.limits.request_s

    async def route(request: Request) -> Response:
        call = Call(
            request.state.request_id,
            asyncio.get_running_loop().time() + seconds if seconds else None,
            request.scope["state"].setdefault("log", {}),
            request.scope["state"].get("trace"),
        )
        try:
            _check_form(request)
            return await until_gone(
                request.receive, _handled(service, model, handler, call, await request.body())
            )
        except ClientGone:
            return Response(status_code=_CLIENT_GONE)
        except Exception as error:
            return http_error(error, call.name).response()

    route.__name__ = handler.__name__
    route.__doc__ = handler.__doc__
    return route


def _check_form(request: Request) -> None:
    """The body must be plain JSON, and say so.

    A page of another origin can send anything but JSON without asking first.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise HTTPError(415, "The body must be JSON; send Content-Type: application/json.")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise HTTPError(
            415,
            f"The body has the Content-Encoding {coding[:64]!r}; send it uncompressed.",
            headers={"Accept-Encoding": "identity"},
        )


async def _handled(
    service: Service, model: type[B], handler: Handler[B], call: Call, body: bytes
) -> Response:
    async with asyncio.timeout_at(call.deadline_s):
        if len(body) <= _SMALL_BYTES:
            parsed = parse_body(model, body)
        else:
            parsed = await asyncio.to_thread(partial(parse_body, model, body))
        parsed.check_limits(service.options.limits)
        service.check_model(parsed.model)
        return await handler(service, parsed, call)
