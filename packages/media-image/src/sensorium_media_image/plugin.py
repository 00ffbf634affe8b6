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
    """The image kind."""
    from sensorium_media_image.kind import ImageKind

    return [ImageKind]


@hookimpl
def sensorium_model_families() -> list[ModelFamily]:
    """The families whose towers see images."""
    from sensorium_media_image.families import FAMILIES

    return list(FAMILIES)


@hookimpl
def sensorium_media_adapters() -> list[type[MediaAdapter]]:
    """How those families take images."""
    from sensorium_media_image.families import ADAPTERS

    return list(ADAPTERS)


@hookimpl
def sensorium_assets() -> Mapping[str, ModuleType]:
    """``sensorium.assets.image``."""
    from sensorium_media_image import assets

    return {"image": assets}
