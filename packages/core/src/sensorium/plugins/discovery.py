"""Finding the installed plugins by their entry points.

Importing the modules is all that happens here: hooks are called by the registry when
something is asked for. Nothing is remembered between two calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from types import ModuleType

from sensorium.errors import ConfigError
from sensorium.plugins.catalogue import read_catalogue
from sensorium.plugins.hookspecs import GROUP
from sensorium.plugins.installed import InstalledPlugin, canonical
from sensorium.plugins.registry import Registry


def discover(
    choices: Mapping[str, str] | None = None, extra: Mapping[str, object] | None = None
) -> Registry:
    """Imports every installed plugin.

    A distribution that lies on ``sys.path`` twice counts once: the first that is found.

    Args:
        choices: claim → distribution, where several plugins make one claim.
        extra: name → a plugin (a module or an object with the hooks as methods) that isn't
            installed; the name stands for its distribution.

    Raises:
        ConfigError: a choice that is no claim, or an extra plugin with the name of an
            installed distribution. A choice that nobody can serve is told when the registry
            is first asked for something.
    """
    plugins = sorted(_installed(), key=lambda plugin: plugin.name)
    taken = {canonical(plugin.distribution) for plugin in plugins}
    for name, plugin in (extra or {}).items():
        if canonical(name) in taken:
            raise ConfigError(f"The extra plugin {name!r} has an installed distribution's name.")
        plugins.append(in_process(name, plugin))
    return Registry(plugins, choices or {}, read_catalogue())


def _installed() -> Iterator[InstalledPlugin]:
    for entry in entry_points(group=GROUP):
        distribution = (entry.dist.name if entry.dist else None) or "unknown"
        yield InstalledPlugin(
            name=f"{distribution}:{entry.name}",
            distribution=distribution,
            version=entry.dist.version if entry.dist else None,
            module=entry.value,
            load=entry.load,
        )


def in_process(name: str, plugin: object) -> InstalledPlugin:
    """A plugin that an application hands over; ``name`` stands for its distribution."""
    return InstalledPlugin(
        name=f"{name}:in-process",
        distribution=name,
        version=None,
        module=plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__,
        load=lambda: plugin,
    )
