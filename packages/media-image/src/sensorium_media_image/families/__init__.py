"""The model families whose towers see images, and how they take them."""

from __future__ import annotations

from sensorium.plugins import MediaAdapter, ModelFamily
from sensorium_media_image.families.llava import LlavaFamily, LlavaImages
from sensorium_media_image.families.minicpmv import MiniCPMVFamily, MiniCPMVImages
from sensorium_media_image.families.onevision import OneVisionFamily, OneVisionImages
from sensorium_media_image.families.phi3v import Phi3VFamily, Phi3VImages
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily

FAMILIES: list[ModelFamily] = [
    LlavaFamily(),
    MiniCPMVFamily(),
    OneVisionFamily(),
    Phi3VFamily(),
    QwenVLFamily(),
]
ADAPTERS: list[type[MediaAdapter]] = [
    LlavaImages,
    MiniCPMVImages,
    OneVisionImages,
    Phi3VImages,
    QwenImages,
]
