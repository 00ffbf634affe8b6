"""What the operator reads when the server is ready."""

from __future__ import annotations

from collections.abc import Iterator

from sensorium import __version__
from sensorium.plugins.discovery import discover
from sensorium_server_openai.command.settings import Settings
from sensorium_server_openai.engine_port import EnginePort
from sensorium_server_openai.options import MIB


def banner(engine: EnginePort, settings: Settings, address: str) -> Iterator[str]:
    """The lines to print."""
    options = settings.server
    yield f"Sensorium {__version__} serves {', '.join(options.served_model_names)}"
    for heading, text in engine.describe():
        yield f"  {heading + ':':<11}{text}"
    yield f"  plugins:   {', '.join(_plugins(settings))}"
    limits = options.limits
    yield (
        f"  limits:    {limits.body_bytes / MIB:g} MiB a body, {limits.concurrent_requests} "
        f"requests at once, {limits.request_s:g} s a request"
    )
    keys = len(options.api_keys)
    yield f"  API keys:  {keys or 'none: whoever reaches the address may ask'}"
    yield f"  address:   {address}{options.root_path} (base URL of clients: {address}/v1)"


def _plugins(settings: Settings) -> list[str]:
    """The distributions whose plugins are in use; by a word, that one of them has failed."""
    found = discover(disabled=settings.engine.get("disabled_plugins", ()))
    shown = {}
    for status in found.statuses:
        if not status.disabled:
            failed = " (failed: see `sensorium plugins`)" if status.error else ""
            shown[status.name] = f"{status.distribution} {status.version or ''}".rstrip() + failed
    return list(dict.fromkeys(shown.values()))
