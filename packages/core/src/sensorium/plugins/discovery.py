"""Finding the installed plugins by their entry points.

Importing the modules is all that happens here: hooks are called by the registry when
something is asked for. Nothing is remembered between two calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from types import ModuleType

from sensorium.errors import ConfigError
from sensorium.plugins.catalogue import read_catalogue
from sensorium.plugins.hookspecs import GROUP
from sensorium.plugins.installed import InstalledPlugin, canonical
from sensorium.plugins.registry import Registry

#: Names of plugins to switch off, with commas between.
DISABLED_VARIABLE = "SENSORIUM_DISABLED_PLUGINS"


def discover(
    choices: Mapping[str, str] | None = None,
    extra: Mapping[str, object] | None = None,
    disabled: Sequence[str] = (),
) -> Registry:
    """Imports every installed plugin that isn't switched off.

    A distribution that lies on ``sys.path`` twice counts once: the first that is found.

    Args:
        choices: claim → distribution, where several plugins make one claim.
        extra: name → a plugin (a module or an object with the hooks as methods) that isn't
            installed; the name stands for its distribution.
        disabled: distributions, or single plugins ("distribution:name"), that are switched off;
            those in ``SENSORIUM_DISABLED_PLUGINS`` (with commas between) are as well.

    Raises:
        ConfigError: a choice that is no claim, an extra plugin with the name of an installed
            distribution, or something disabled that isn't installed. A choice that no plugin can
            serve is reported when the registry is first asked for something.
    """
    by_environment = [n for n in os.environ.get(DISABLED_VARIABLE, "").split(",") if n.strip()]
    off = _SwitchedOff([*disabled, *by_environment])
    plugins = sorted(_installed(off), key=lambda plugin: plugin.name)
    off.check(disabled, plugins)
    taken = {canonical(plugin.distribution) for plugin in plugins}
    for name, plugin in (extra or {}).items():
        if canonical(name) in taken:
            raise ConfigError(f"The extra plugin {name!r} has an installed distribution's name.")
        plugins.append(in_process(name, plugin))
    return Registry(plugins, choices or {}, read_catalogue())


def _installed(off: _SwitchedOff) -> Iterator[InstalledPlugin]:
    for entry in entry_points(group=GROUP):
        distribution = (entry.dist.name if entry.dist else None) or "unknown"
        name = f"{distribution}:{entry.name}"
        yield InstalledPlugin(
            name=name,
            distribution=distribution,
            version=entry.dist.version if entry.dist else None,
            module=entry.value,
            load=None if off.names(name, distribution) else entry.load,
        )


class _SwitchedOff:
    """The plugins that the user switched off."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {_comparable(name) for name in names}

    def names(self, name: str, distribution: str) -> bool:
        """Whether a plugin is among them, by its own name or its distribution's."""
        return not self._names.isdisjoint((_comparable(name), _comparable(distribution)))

    def check(self, asked: Sequence[str], found: Sequence[InstalledPlugin]) -> None:
        """Checks that what an option names is installed; what the environment names need not be.

        Raises:
            ConfigError: it isn't.
        """
        known = {_comparable(n) for plugin in found for n in (plugin.name, plugin.distribution)}
        for name in asked:
            if _comparable(name) not in known:
                installed = ", ".join(sorted({plugin.distribution for plugin in found})) or "none"
                raise ConfigError(
                    f"disabled_plugins names {name!r}, which isn't installed; installed are "
                    f"{installed}."
                )


def _comparable(name: str) -> str:
    distribution, colon, entry = name.strip().partition(":")
    return f"{canonical(distribution)}{colon}{entry}"


def in_process(name: str, plugin: object) -> InstalledPlugin:
    """A plugin that an application hands over; ``name`` stands for its distribution."""
    return InstalledPlugin(
        name=f"{name}:in-process",
        distribution=name,
        version=None,
        module=plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__,
        load=lambda: plugin,
    )
