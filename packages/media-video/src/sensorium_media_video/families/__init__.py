"""How model families take video."""

from __future__ import annotations

from sensorium.plugins.adapter import MediaAdapter
from sensorium_media_video.families.minicpmv import MiniCPMVVideo
from sensorium_media_video.families.onevision import OneVisionVideo
from sensorium_media_video.families.qwen_vl import QwenVideo

ADAPTERS: tuple[type[MediaAdapter], ...] = (MiniCPMVVideo, OneVisionVideo, QwenVideo)
