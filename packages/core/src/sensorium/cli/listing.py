"""``sensorium plugins``: what is installed, what each plugin brings, what failed and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sensorium.plugins.hookspecs import API
from sensorium.plugins.installed import PluginStatus
from sensorium.plugins.registry import Registry

#: A claim's noun → the heading of its line.
_HEADINGS = {
    "kind": "kinds",
    "part": "chat parts",
    "family": "families",
    "adapter": "adapters",
    "encoder": "encoders",
    "command": "commands",
    "assets": "assets",
    "model": "models",
}


def list_plugins(registry: Registry) -> Iterator[str]:
    """The lines to print."""
    statuses = registry.statuses
    failed = [status for status in statuses if status.error]
    off = [status for status in statuses if status.disabled]
    switched = f", {len(off)} switched off" if off else ""
    yield f"{len(statuses)} plugins, {len(failed)} failed{switched}; this core serves api = {API}."
    for status in statuses:
        yield ""
        yield from _plugin(status)
    if registry.conflicts:
        yield ""
        yield "In conflict:"
        for sentence in registry.conflicts.values():
            yield f"  {sentence}"


def _plugin(status: PluginStatus) -> Iterator[str]:
    origin = status.version or "in-process"
    yield f"{status.name} ({origin}, module {status.module})"
    if status.disabled:
        yield "  switched off (disabled_plugins or SENSORIUM_DISABLED_PLUGINS)"
        return
    if status.error:
        yield f"  FAILED: {status.error}"
        return
    if not status.brings:
        yield "  brings nothing"
    for noun, heading in _HEADINGS.items():
        names = _names(status.brings, noun)
        if names:
            yield f"  {heading + ':':<12}{', '.join(names)}"


def _names(claims: Iterable[str], noun: str) -> list[str]:
    prefix = f"{noun}:"
    return sorted({claim.removeprefix(prefix) for claim in claims if claim.startswith(prefix)})
