"""A server on loopback, in this process: the real application, protocol and event loop.

The engine is the caller's; several servers may share one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import httpx2

from sensorium_server_openai import ServerOptions, build_app
from sensorium_server_openai.command.life import DrainingServer, uvicorn_config
from sensorium_server_openai.command.serve import add_arguments
from sensorium_server_openai.command.settings import gather
from sensorium_server_openai.engine_port import Engine, EnginePort
from sensorium_server_openai.middleware.gate import GateState
from sensorium_server_openai.tracing import Tracing

_PATIENCE_S = 100.0


@dataclass
class Served:
    """A running server.

    Attributes:
        server, gate: as ``sensorium serve`` has them.
        loop: the event loop that it runs on.
    """

    url: str
    port: int
    server: DrainingServer
    gate: GateState
    loop: asyncio.AbstractEventLoop

    def client(self, **options: Any) -> httpx2.Client:
        """A client of it that has patience."""
        # No TLS: what Python needs for it takes 60 ms to read.
        return httpx2.Client(base_url=self.url, timeout=_PATIENCE_S, verify=False, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        """One request; ``body`` is JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.client() as client:
            headers = {"Content-Type": "application/json", **options.pop("headers", {})}
            return client.post(path, content=content, headers=headers, **options)

    def send(
        self, method: str, path: str, body: Any, *, num_bytes: int | None = None
    ) -> socket.socket:
        """A request of which nothing is read; the caller closes the connection.

        Args:
            num_bytes: of the body that are sent, counted from its end if negative; None: all.
        """
        content = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), _PATIENCE_S)
        connection.sendall(head.encode() + content[:num_bytes])
        return connection

    def events(self, path: str, body: Any) -> list[Any]:
        """The events of a stream, as JSON; the last one is "[DONE]"."""
        found: list[Any] = []
        with self.client() as client, client.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    found.append(data if data == "[DONE]" else json.loads(data))
        return found


class Unclosed:
    """An engine that outlives the servers that share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        """Leaves it to whoever made it."""


@contextmanager
def served(
    engine: Any,
    names: tuple[str, ...] = ("tiny-vl",),
    run: Mapping[str, Any] | None = None,
    tracing: Tracing | None = None,
    **options: Any,
) -> Iterator[Served]:
    """Serves the engine; ``options`` are those of ``ServerOptions``, ``run`` those of its run."""
    chosen = ServerOptions(served_model_names=names, **options)
    gate = GateState()
    app = build_app(Unclosed(engine), chosen, gate=gate, tracing=tracing)  # type: ignore[arg-type]
    server = DrainingServer(uvicorn_config(app, chosen, run or {}), gate)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    started: list[asyncio.AbstractEventLoop] = []
    ready = threading.Event()

    async def serve() -> None:
        started.append(asyncio.get_running_loop())
        task = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        ready.set()
        await task

    thread = threading.Thread(target=_run, args=(serve, server), daemon=True)
    thread.start()
    try:
        assert ready.wait(_PATIENCE_S)
        yield Served(f"http://127.0.0.1:{port}", port, server, gate, started[0])
    finally:
        server.end()
        thread.join(_PATIENCE_S)
        assert not thread.is_alive(), "the server doesn't end"


@contextmanager
def served_as(model: Path, *arguments: str) -> Iterator[Served]:
    """What ``sensorium serve MODEL`` with these arguments serves; the engine is a thread here."""
    from sensorium import AsyncEngine  # with torch, which most tests of the server do without

    parser = argparse.ArgumentParser("sensorium serve")
    add_arguments(parser)
    settings = gather(parser.parse_args([str(model), *arguments]), {})
    options = {entry.name: getattr(settings.server, entry.name) for entry in fields(ServerOptions)}
    names = options.pop("served_model_names")
    with (
        AsyncEngine(settings.model, **settings.engine) as engine,
        served(EnginePort.of(engine, settings.model), names, settings.run, **options) as server,
    ):
        yield server


def _run(run: Callable[[], Coroutine[Any, Any, None]], server: DrainingServer) -> None:
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(run())
