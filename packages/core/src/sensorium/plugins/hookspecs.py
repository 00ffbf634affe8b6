"""The six hooks. A plugin module states ``api = 2`` and implements any of them.

Hooks run once, when an engine or the command line starts. They import inside the function,
so that discovery stays cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from sensorium.plugins.adapter import MediaAdapter
    from sensorium.plugins.command import Command
    from sensorium.plugins.family import ModelFamily
    from sensorium.plugins.kind import MediaKind

PROJECT = "sensorium"
#: The entry-point group that is searched.
GROUP = "sensorium.plugins"
#: The interface's major version; a plugin states the one it was written for.
API = 2

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def sensorium_media_kinds() -> list[type[MediaKind]]:  # type: ignore[empty-body]
    """The kinds of media this plugin brings."""


@hookspec
def sensorium_model_families() -> list[ModelFamily]:  # type: ignore[empty-body]
    """The model families this plugin brings, as instances."""


@hookspec
def sensorium_media_adapters() -> list[type[MediaAdapter]]:  # type: ignore[empty-body]
    """How families (its own or others') take kinds (its own or others')."""


@hookspec
def sensorium_commands() -> list[Command]:  # type: ignore[empty-body]
    """Subcommands of ``sensorium``."""


@hookspec
def sensorium_assets() -> Mapping[str, ModuleType]:  # type: ignore[empty-body]
    """Kind → module; ``sensorium.assets.KIND`` resolves to it."""


@hookspec
def sensorium_models() -> Mapping[str, Path]:  # type: ignore[empty-body]
    """Name → folder of a checkpoint that lies in the distribution, to be served by that name."""
