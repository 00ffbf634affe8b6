"""``Setup``: the message that tells the engine's process what to load.

Both processes find their plugins by themselves; this file checks that they find the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensorium.config import EngineConfig
from sensorium.errors import PluginError
from sensorium.plugins.registry import Registry


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin as a process found it.

    Attributes:
        name: "distribution:entry point".
        brings: its claims; () if it failed.
        failed: it did.
    """

    name: str
    version: str | None
    module: str
    brings: tuple[str, ...]
    failed: bool

    def __str__(self) -> str:
        """As messages name it."""
        state = "which failed" if self.failed else f"with {', '.join(self.brings) or 'nothing'}"
        return f"{self.name} {self.version or '(no version)'} from {self.module}, {state}"


@dataclass(frozen=True, slots=True)
class Setup:
    """What an engine is built from.

    Attributes:
        config: the options, ``plugin_choices`` among them.
        plugins: those that the frontend's process found, by name.
    """

    config: EngineConfig
    plugins: tuple[Plugin, ...]


def plugins_of(registry: Registry) -> tuple[Plugin, ...]:
    """What this process found. Calls all hooks."""
    found = (
        Plugin(s.name, s.version, s.module, tuple(s.brings), s.error is not None)
        for s in registry.statuses
    )
    return tuple(sorted(found, key=lambda plugin: plugin.name))


def check_plugins(expected: tuple[Plugin, ...], registry: Registry) -> None:
    """Checks that this process, the engine's, found what the frontend's did.

    Raises:
        PluginError: the first difference, naming both sides.
    """
    there = {plugin.name: plugin for plugin in expected}
    here = {plugin.name: plugin for plugin in plugins_of(registry)}
    for name in sorted(there | here):
        if there.get(name) != here.get(name):
            raise PluginError(
                "The engine's process finds other plugins than this one. "
                f"Here: {there.get(name, f'no {name}')}. There: {here.get(name, f'no {name}')}."
            )
