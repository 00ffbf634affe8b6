"""The contracts of `sensorium.testing`, on the audio kind."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from audio_files import encode, encode_av, melody

from sensorium.plugins import MediaKind
from sensorium.testing.kind import MediaKindContract
from sensorium_media_audio.av_decoder import is_installed
from sensorium_media_audio.kind import AudioKind


class TestAudioKind(MediaKindContract):
    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        return AudioKind(options)

    def values(self) -> Sequence[Any]:
        clip = melody(0.2)
        return [
            (clip, 16_000),
            (clip, 8_000),
            melody(0.2, seed=1),
            torch.from_numpy(melody(0.1)),
            melody(0.1, seed=2).tolist(),
            (np.stack([clip, 0.5 * clip]), 44_100),
            encode(clip, 16_000, "WAV", "PCM_16"),
            encode(clip, 16_000, "OGG", "OPUS"),
        ]

    def changed(self) -> Iterable[tuple[Any, Any]]:
        clip = melody(0.2)
        other = clip.copy()
        other[100] += 0.01
        yield clip, other
        yield clip.tolist(), other.tolist()
        yield (clip, 16_000), (other, 16_000)
        one, two = (encode(c, 16_000, "WAV", "PCM_16") for c in (clip, other))
        yield one, two

    def lookalikes(self) -> Iterable[tuple[Any, Any]]:
        clip = melody(0.2)
        numbers = (clip * 32767).astype(np.int16)
        yield (clip, 16_000), (clip, 16_001)
        yield numbers, numbers.view(np.float16)
        yield np.stack([clip, clip]), np.concatenate([clip, clip])

    def encoded(self) -> Sequence[bytes]:
        clip = melody(0.4)
        names = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
        files = [encode(clip, 16_000, *pair) for pair in names]
        files.append(encode(clip, 16_000, "MP3", "MPEG_LAYER_III"))
        if is_installed():
            files.append(encode_av(clip, 16_000, "ipod", "aac"))
            files.append(encode_av(melody(0.4, 48_000), 48_000, "webm", "libopus"))
        return files

    def hostile(self) -> Iterable[Any]:
        yield np.zeros(0, np.float32)
        yield np.zeros((30, 40), np.float32)
        yield np.float32([np.nan])
        yield (np.zeros(16_000, np.float32), 7)
        yield [0.5, "0.5"]
        yield [2**70, 3.5] * 100
        yield encode(melody(0.1), 16_000, "WAV", "GSM610")
        yield encode(np.zeros((100, 30), np.float32), 16_000, "WAV", "PCM_16")

    def loading_options(self) -> Sequence[Mapping[str, Any]]:
        return [{"sampling_rate": 24_000}]

    def parts(self) -> Sequence[tuple[str, Any, Any]]:
        data = encode(melody(0.2), 16_000, "WAV", "PCM_16")
        text = base64.b64encode(data).decode()
        return [
            ("audio_url", {"url": f"data:audio/wav;base64,{text}"}, data),
            ("input_audio", {"data": text, "format": "wav"}, data),
        ]
