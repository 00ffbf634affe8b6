"""The model families whose towers see images, and how they take them."""

from __future__ import annotations

from sensorium.plugins import MediaAdapter, ModelFamily
from sensorium_media_image.families.llava import LlavaFamily, LlavaImages
from sensorium_media_image.families.qwen2_5_vl import Qwen25VLFamily, QwenImages

FAMILIES: list[ModelFamily] = [LlavaFamily(), Qwen25VLFamily()]
ADAPTERS: list[type[MediaAdapter]] = [LlavaImages, QwenImages]
