"""The model families whose towers hear, and how they take audio."""

from __future__ import annotations

from sensorium.plugins import MediaAdapter, ModelFamily
from sensorium_media_audio.families.ultravox import UltravoxAudio, UltravoxFamily

FAMILIES: list[ModelFamily] = [UltravoxFamily()]
ADAPTERS: list[type[MediaAdapter]] = [UltravoxAudio]
