"""``PluginStatus``: one installed plugin, as ``sensorium plugins`` prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """One plugin.

    Attributes:
        name: "distribution:entry point".
        distribution, version: where it comes from; no version for a plugin that an
            application handed over in-process.
        module: the entry point's value.
        brings: its claims ("kind:NAME", "family:ARCHITECTURE", …); () if it failed.
        error: why it failed, in one line; None: it works.
        disabled: the user switched it off.
    """

    name: str
    distribution: str
    version: str | None
    module: str
    brings: tuple[str, ...] = ()
    error: str | None = None
    disabled: bool = False
