"""What this distribution registers. Hooks import inside, so that discovery stays cheap."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from sensorium.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from sensorium.plugins.adapter import MediaAdapter
    from sensorium.plugins.kind import MediaKind

api = 2


@hookimpl
def sensorium_media_kinds() -> list[type[MediaKind]]:
    """The video kind."""
    from sensorium_media_video.kind import VideoKind

    return [VideoKind]


@hookimpl
def sensorium_media_adapters() -> list[type[MediaAdapter]]:
    """How the families take video."""
    from sensorium_media_video.families import ADAPTERS

    return list(ADAPTERS)


@hookimpl
def sensorium_assets() -> Mapping[str, ModuleType]:
    """``sensorium.assets.video``."""
    from sensorium_media_video import assets

    return {"video": assets}
