"""What this distribution registers. Hooks import inside, so that discovery stays cheap."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from sensorium.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from sensorium.plugins.adapter import MediaAdapter
    from sensorium.plugins.family import ModelFamily
    from sensorium.plugins.kind import MediaKind

api = 2


@hookimpl
def sensorium_media_kinds() -> list[type[MediaKind]]:
    """The audio kind."""
    from sensorium_media_audio.kind import AudioKind

    return [AudioKind]


@hookimpl
def sensorium_model_families() -> list[ModelFamily]:
    """The model families that take audio."""
    from sensorium_media_audio.families import FAMILIES

    return list(FAMILIES)


@hookimpl
def sensorium_media_adapters() -> list[type[MediaAdapter]]:
    """The adapters between the audio kind and those families."""
    from sensorium_media_audio.families import ADAPTERS

    return list(ADAPTERS)


@hookimpl
def sensorium_assets() -> Mapping[str, ModuleType]:
    """``sensorium.assets.audio``."""
    from sensorium_media_audio import assets

    return {"audio": assets}
