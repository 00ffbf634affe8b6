"""From settings to a running server, and to its end.

load the engine → banner → serve … SIGTERM or Ctrl-C → refuse what is new, let run what runs
(at most ``--shutdown-timeout``) → close the engine
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from sensorium import ConfigError
from sensorium_server_openai.app import build_app
from sensorium_server_openai.command.banner import banner
from sensorium_server_openai.command.settings import Settings
from sensorium_server_openai.engine_port import load_engine
from sensorium_server_openai.middleware.gate import GateState
from sensorium_server_openai.options import ServerOptions
from sensorium_server_openai.tools.registry import load_parser
from sensorium_server_openai.tracing import Tracing
from sensorium_server_openai.wire import protocol_of

logger = logging.getLogger("sensorium.server")

_HOST, _PORT = "127.0.0.1", 8000
_SHUTDOWN_S = 30.0
#: Connections that wait to be accepted, as uvicorn has it.
_BACKLOG = 2048
Say = Callable[[str], None]


def serve(settings: Settings, *, say: Say) -> int:
    """Serves; returns the exit status.

    Raises:
        ConfigError, PluginError: what can't work.
    """
    check(settings)
    endpoint = settings.run.get("otlp_traces_endpoint")
    tracing = None if endpoint is None else Tracing.to_endpoint(endpoint)
    listening = listen(settings.run.get("host", _HOST), settings.run.get("port", _PORT))
    try:
        engine = load_engine(settings.model, dict(settings.engine))
    except BaseException:
        listening.close()
        raise
    try:
        gate = GateState()
        app = build_app(engine, settings.server, gate=gate, tracing=tracing)
        server = DrainingServer(uvicorn_config(app, settings.server, settings.run), gate)
        take(listening)
        if settings.run.get("banner", True):
            say("\n".join(banner(engine, settings, address(listening, settings.run))))
        server.run(sockets=[listening])
    finally:
        listening.close()
        engine.close()
    return 0


def check(settings: Settings) -> None:
    """Refuses what can't work before the model is loaded, which takes its time.

    Raises:
        ConfigError: a tool parser that doesn't work, TLS files that can't be used.
    """
    if settings.server.tool_parser is not None:
        load_parser(settings.server.tool_parser)
    run = settings.run
    if bool(run.get("ssl_keyfile")) != bool(run.get("ssl_certfile")):
        raise ConfigError("--ssl-keyfile and --ssl-certfile go together.")
    for name in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs"):
        if name in run and not Path(run[name]).is_file():
            raise ConfigError(f"--{name.replace('_', '-')} {run[name]} is no file.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if "ssl_certfile" in run:
            context.load_cert_chain(run["ssl_certfile"], run["ssl_keyfile"])
        if "ssl_ca_certs" in run:
            context.load_verify_locations(run["ssl_ca_certs"])
    except (OSError, ValueError) as error:
        raise ConfigError(f"TLS can't be set up with these files: {error}.") from None


def listen(host: str, port: int) -> socket.socket:
    """Takes the address, before the model is loaded.

    Raises:
        ConfigError: it isn't this machine's, or is taken.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"The server can't listen on {host}, port {port}: {reason}.") from None
    return listening


def take(listening: socket.socket) -> None:
    """Makes the address this server's alone, now that the model is loaded: two that were starting
    at once may both have come so far.

    Raises:
        ConfigError: the other server has it.
    """
    try:
        listening.listen(_BACKLOG)
    except OSError as error:
        raise ConfigError(f"The server can't listen any more: {error.strerror}.") from None


def address(listening: socket.socket, run: Any) -> str:
    """Where clients find the server."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if run.get('ssl_certfile') else 'http'}://{shown}:{port}"


def uvicorn_config(app: FastAPI, options: ServerOptions, run: Any) -> uvicorn.Config:
    """How the application is run."""
    config = uvicorn.Config(
        app,
        http=protocol_of(options.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        root_path=options.root_path,
        proxy_headers=False,
        timeout_keep_alive=int(options.limits.keep_alive_s),
        timeout_graceful_shutdown=run.get("shutdown_timeout", _SHUTDOWN_S),
        ssl_keyfile=run.get("ssl_keyfile"),
        ssl_certfile=run.get("ssl_certfile"),
        ssl_ca_certs=run.get("ssl_ca_certs"),
        ssl_cert_reqs=run.get("ssl_cert_reqs", ssl.CERT_NONE),
    )
    config.load()
    return config


class DrainingServer(uvicorn.Server):
    """uvicorn's server; asked to end, it refuses what is new first.

    A second signal ends what runs at once.
    """

    def __init__(self, config: uvicorn.Config, gate: GateState) -> None:
        super().__init__(config)
        self._gate = gate

    def end(self) -> None:
        """Begins the end; called again, it doesn't wait for what runs."""
        if self.should_exit:
            self.force_exit = True
        self._gate.draining = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C begin the end; unlike uvicorn's, they aren't raised again after it."""
        loop = asyncio.get_running_loop()
        taken = []
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                # Only the main thread may; elsewhere ``end`` is called.
                with contextlib.suppress(ValueError, RuntimeError):
                    loop.add_signal_handler(number, self.end)
                    taken.append(number)
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)
