"""The families' video adapters keep the contract that every plugin's are held to."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from clips import random_clip
from family_helpers import load_tower, model_context, open_folder
from tiny_checkpoints import make_minicpmv, make_qwen2vl, make_qwen25vl
from tiny_onevision import make_onevision

from sensorium.plugins import Encoder, MediaAdapter, MediaKind
from sensorium.testing.adapter import MediaAdapterContract
from sensorium.tokenizer import Tokenizer
from sensorium.types import Loaded, MediaPlan, MediaShape
from sensorium_media_image import pieces
from sensorium_media_image.families.minicpmv import MiniCPMVFamily
from sensorium_media_image.families.onevision import OneVisionFamily
from sensorium_media_image.families.qwen_vl import QwenVLFamily
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.families.minicpmv import MiniCPMVVideo
from sensorium_media_video.families.onevision import OneVisionVideo
from sensorium_media_video.families.qwen_vl import QwenVideo
from sensorium_media_video.kind import VideoKind

#: Positions of the models, so that the largest clip stays small.
POSITIONS = 2048


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most clips here are in pieces."""
    monkeypatch.setattr(pieces, "PATCHES_AT_ONCE", 20)


class _VideoAdapterContract(MediaAdapterContract):
    """What the families have in common."""

    make: ClassVar[Any]
    family: ClassVar[Any]
    adapter: ClassVar[type[MediaAdapter]]
    num_random_shapes = 60

    def make_kind(self) -> MediaKind:
        return VideoKind({})

    def make_adapter(self) -> MediaAdapter:
        checkpoint = open_folder(_folder(self.make))
        context = model_context(self.family, checkpoint.config, checkpoint.processor)
        return self.adapter(replace(context, tokenizer=Tokenizer.load(_folder(self.make))))

    def make_encoders(self) -> Mapping[str, Encoder]:
        return {"tower": load_tower(self.family, open_folder(_folder(self.make)))}

    def values(self) -> Sequence[Any]:
        sizes = [(1, 56, 56), (5, 60, 40), (8, 50, 150), (2, 90, 3)]
        clips: list[Any] = [random_clip(*size, seed) for seed, size in enumerate(sizes)]
        # Of which two frames a second are chosen, the rate of frames that come without one.
        clips[2] = (clips[2], {"fps": 4.0, "do_sample_frames": True})
        return clips

    def shapes(self) -> Sequence[MediaShape]:
        sizes = [(1, 1, 1), (3, 1, 200), (3, 1, 201), (768, 28, 28), (4096, 1080, 1920)]
        return [ClipFacts(*size, fps=30.0).shape for size in sizes]

    def random_shape(self, rng: random.Random) -> MediaShape:
        largest = 300 if rng.random() < 0.5 else 3000
        return ClipFacts(
            *(rng.randint(1, largest) for _ in range(3)),
            fps=rng.choice([0.5, 7.67, 30.0]),
            sampled=rng.random() < 0.5,
        ).shape


class _QwenContract(_VideoAdapterContract):
    family, adapter = QwenVLFamily(), QwenVideo

    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [
            {},
            {"max_pixels": 20 * 784},
            {"min_pixels": 8 * 784, "total_pixels": 40 * 784},
            {"num_frames": 4},
            {"fps": 1.0},
        ]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        time, rows, columns = plan.grid
        return {"video_grid_thw": torch.tensor([time, 2 * rows, 2 * columns])}


class TestQwen2Video(_QwenContract):
    make = staticmethod(make_qwen2vl)


class TestQwen25Video(_QwenContract):
    make = staticmethod(make_qwen25vl)


class TestOneVisionVideo(_VideoAdapterContract):
    make = staticmethod(make_onevision)
    family, adapter = OneVisionFamily(), OneVisionVideo

    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [{}, {"num_frames": 3}, {"fps": 1.0}]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        return {}


class TestMiniCPMVVideo(_VideoAdapterContract):
    make = staticmethod(make_minicpmv)
    family, adapter = MiniCPMVFamily(), MiniCPMVVideo

    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [{}, {"video_max_slice_nums": 1}, {"video_max_slice_nums": 4, "fps": 0.5}]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        _, height, width = loaded.shape.size
        return {"video_image_sizes": torch.tensor([width, height])}


def test_pieces_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mistaken(TestQwen2Video):
        def make_encoders(self) -> Mapping[str, Encoder]:
            encoders = super().make_encoders()
            tower: Any = encoders["tower"]
            encode = tower.encode_piece
            tower.encode_piece = lambda item, piece, count: encode(item, count - 1 - piece, count)
            return encoders

    with pytest.raises(AssertionError, match=r"in \d+ pieces"):
        Mistaken().test_the_pieces_of_an_item_are_the_item()


@lru_cache
def _folder(make: Any) -> Path:
    """One checkpoint a family for all tests of this file; gone with the process."""
    folder: Path = make(Path(_FOLDER.name) / make.__name__)
    config = folder / "config.json"
    entries = json.loads(config.read_text())
    (entries.get("text_config") or entries)["max_position_embeddings"] = POSITIONS
    config.write_text(json.dumps(entries))
    return folder


_FOLDER = tempfile.TemporaryDirectory()
