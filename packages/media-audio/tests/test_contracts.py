"""The contracts of `sensorium.testing`, on the audio kind and on Ultravox."""

from __future__ import annotations

import base64
import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from audio_files import encode, encode_av, melody
from family_helpers import load_tower, model_context
from tiny_ultravox import make_ultravox

from sensorium.checkpoint import Checkpoint, open_checkpoint
from sensorium.config import EngineConfig
from sensorium.engine.model import complete
from sensorium.plugins import Encoder, MediaAdapter, MediaKind
from sensorium.testing.adapter import MediaAdapterContract
from sensorium.testing.family import ModelFamilyContract
from sensorium.testing.kind import MediaKindContract
from sensorium.tokenizer import Tokenizer
from sensorium.types import Loaded, MediaPlan, MediaShape
from sensorium_media_audio.av_decoder import is_installed
from sensorium_media_audio.families.ultravox import UltravoxAudio, UltravoxFamily
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


class TestUltravoxAudio(MediaAdapterContract):
    def make_kind(self) -> MediaKind:
        return AudioKind({})

    def make_adapter(self) -> MediaAdapter:
        checkpoint = _checkpoint()
        context = model_context(UltravoxFamily(), checkpoint.config, checkpoint.processor)
        return UltravoxAudio(replace(context, tokenizer=Tokenizer.load(checkpoint.folder)))

    def make_encoders(self) -> Mapping[str, Encoder]:
        return {"tower": load_tower(UltravoxFamily(), _checkpoint())}

    def values(self) -> Sequence[Any]:
        return [melody(seconds, seed=i) for i, seconds in enumerate((0.01, 0.5, 1.23, 31.0))]

    def shapes(self) -> Sequence[MediaShape]:
        return [_shape(n) for n in (1, 319, 320, 321, 479_999, 480_000, 480_001, 9_600_000)]

    def random_shape(self, rng: random.Random) -> MediaShape:
        return _shape(rng.randrange(1, 2_000_000))

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        return {}

    def refused_rows(self, plan: MediaPlan) -> Sequence[int]:
        return (0,)  # a clip may have any length


class TestUltravoxFamily(ModelFamilyContract):
    def make_checkpoint(self, folder: Path) -> Path:
        return make_ultravox(folder)

    def prompts(self) -> Sequence[Any]:
        clips = [melody(0.5 + seed, seed=seed) for seed in range(3)]
        return [
            "no sound",
            {"prompt": "one <|audio|>?", "multi_modal_data": {"audio": clips[0]}},
            {"prompt": "<audio> and <audio>", "multi_modal_data": {"audio": clips[:2]}},
            {"prompt": "<|audio|><|audio|><|audio|>.", "multi_modal_data": {"audio": clips}},
        ]

    def engine_options(self) -> Mapping[str, Any]:
        return {"max_model_len": 512}


def _shape(length: int) -> MediaShape:
    return MediaShape((), {"length": length, "sampling_rate": 16_000})


@lru_cache
def _checkpoint() -> Checkpoint:
    """One checkpoint for all tests of this file; gone with the process."""
    engine = EngineConfig(model=str(make_ultravox(Path(_FOLDER.name) / "ultravox")))
    return complete(open_checkpoint(engine), UltravoxFamily(), engine)


_FOLDER = tempfile.TemporaryDirectory()
