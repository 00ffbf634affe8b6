"""The image kind and its families keep the contracts that every plugin is held to."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from family_helpers import load_tower, make_adapter, model_context, open_folder, random_image
from PIL import Image
from tiny_checkpoints import make_llava, make_minicpmv, make_phi3v, make_qwen2vl, make_qwen25vl
from tiny_onevision import make_onevision

from sensorium.plugins import Encoder, MediaAdapter, MediaKind
from sensorium.testing.adapter import MediaAdapterContract
from sensorium.testing.family import ModelFamilyContract
from sensorium.testing.kind import MediaKindContract
from sensorium.tokenizer import Tokenizer
from sensorium.types import Loaded, MediaPlan, MediaShape
from sensorium_media_image.families.llava import LlavaFamily, LlavaImages
from sensorium_media_image.families.minicpmv import MiniCPMVFamily, MiniCPMVImages
from sensorium_media_image.families.onevision import OneVisionFamily, OneVisionImages
from sensorium_media_image.families.phi3v import Phi3VFamily, Phi3VImages
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily
from sensorium_media_image.kind import ImageKind


def picture(height: int, width: int, seed: int) -> Any:
    return random_image(height, width, seed)


def encode(pixels: Any, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def one_pixel_changed(pixels: Any) -> Any:
    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    return changed


class TestImageKind(MediaKindContract):
    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        return ImageKind(options)

    def values(self) -> Sequence[Any]:
        rgba = np.dstack([picture(9, 7, 1), np.full((9, 7), 128, np.uint8)])
        return [picture(6, 9, 0), Image.fromarray(picture(5, 5, 2)), rgba, *self.encoded()[:1]]

    def changed(self) -> Iterable[tuple[Any, Any]]:
        pixels = picture(6, 9, 0)
        other = one_pixel_changed(pixels)
        yield pixels, other
        yield Image.fromarray(pixels), Image.fromarray(other)
        yield torch.from_numpy(pixels.copy()), torch.from_numpy(other)
        yield encode(pixels, "PNG"), encode(other, "PNG")

    def lookalikes(self) -> Iterable[tuple[Any, Any]]:
        pixels = picture(6, 9, 0)
        yield pixels, pixels.reshape(9, 6, 3)
        yield Image.fromarray(pixels), Image.fromarray(pixels.reshape(9, 6, 3))
        yield Image.fromarray(pixels), Image.fromarray(pixels.reshape(6, 9, 3), mode="YCbCr")
        yield np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 1), bool)
        grey = Image.fromarray(pixels[:, :, 0])
        palette = grey.copy()
        palette.putpalette(bytes(255 - i // 3 for i in range(768)))
        yield grey, palette
        turned = Image.fromarray(pixels)
        turned.getexif()[0x0112] = 3
        yield Image.fromarray(pixels), turned

    def encoded(self) -> Sequence[bytes]:
        pixels = picture(40, 60, 3)
        return [encode(pixels, name) for name in ("JPEG", "PNG", "WebP", "GIF", "BMP")]

    def hostile(self) -> Iterable[Any]:
        yield b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (100_000).to_bytes(4, "big") * 2 + bytes(9)
        yield b"II*\0" + bytes(100)  # TIFF, which isn't allowed
        yield b"<svg xmlns='http://www.w3.org/2000/svg'/>"
        yield np.zeros((0, 4, 3), np.uint8)
        yield np.zeros((5, 5, 7), np.uint8)
        yield np.full((4, 4, 3), 300)
        yield np.full((4, 4, 3), np.nan)

    def loading_options(self) -> Sequence[Mapping[str, Any]]:
        return [{"rgba_background_color": (1, 2, 3)}]

    def parts(self) -> Sequence[tuple[str, Any, Any]]:
        pixels = picture(6, 9, 0)
        data = encode(pixels, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return [
            ("image_url", {"url": url}, data),
            ("image_url", url, data),
            ("image_pil", Image.fromarray(pixels), Image.fromarray(pixels)),
        ]


class _ImageAdapterContract(MediaAdapterContract):
    """What the families have in common."""

    make: ClassVar[Any]
    family: ClassVar[Any]
    adapter: ClassVar[type[MediaAdapter]]

    def make_kind(self) -> MediaKind:
        return ImageKind({})

    def make_adapter(self) -> MediaAdapter:
        return make_adapter(self.adapter, self.family, open_folder(_folder(self.make)))

    def make_encoders(self) -> Mapping[str, Encoder]:
        return {"tower": load_tower(self.family, open_folder(_folder(self.make)))}

    def values(self) -> Sequence[Any]:
        sizes = [(56, 56), (90, 130), (200, 40), (1, 3), (150, 250)]
        return [picture(*size, seed) for seed, size in enumerate(sizes)]

    def shapes(self) -> Sequence[MediaShape]:
        sizes = [(1, 1), (1, 200), (1, 201), (10000, 1), (28, 28), (4000, 4000), (16384, 100)]
        return [MediaShape(size) for size in sizes]


class TestLlavaImages(_ImageAdapterContract):
    make, family, adapter = staticmethod(make_llava), LlavaFamily(), LlavaImages

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        return {}


class TestOneVisionImages(_ImageAdapterContract):
    make, family, adapter = staticmethod(make_onevision), OneVisionFamily(), OneVisionImages

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        return {}

    def refused_rows(self, plan: MediaPlan) -> Sequence[int]:
        """Images of other sizes may have one row more or less."""
        return (0, 8, 10**9)


class _NativeImagesContract(_ImageAdapterContract):
    def make_adapter(self) -> MediaAdapter:
        """With a tokenizer, which these adapters ask for the ids of their tokens."""
        checkpoint = open_folder(_folder(self.make))
        context = model_context(self.family, checkpoint.config, checkpoint.processor)
        return self.adapter(replace(context, tokenizer=Tokenizer.load(_folder(self.make))))


class TestPhi3VImages(_NativeImagesContract):
    make, family, adapter = staticmethod(make_phi3v), Phi3VFamily(), Phi3VImages

    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [{}, {"num_crops": 1}, {"num_crops": 16}]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        return {}


class TestMiniCPMVImages(_NativeImagesContract):
    make, family, adapter = staticmethod(make_minicpmv), MiniCPMVFamily(), MiniCPMVImages

    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [{}, {"max_slice_nums": 1}, {"max_slice_nums": 9}]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        height, width = loaded.shape.size
        return {"image_sizes": torch.tensor([width, height])}


class _QwenImagesContract(_ImageAdapterContract):
    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [
            {},
            {"max_pixels": 20 * 784},
            {"min_pixels": 40 * 784},
            {"size": {"shortest_edge": 9 * 784, "longest_edge": 30 * 784}},
        ]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        time, rows, columns = plan.grid
        return {"image_grid_thw": torch.tensor([time, 2 * rows, 2 * columns])}


class TestQwen2Images(_QwenImagesContract):
    make, family, adapter = staticmethod(make_qwen2vl), QwenVLFamily(), QwenImages


class TestQwen25Images(_QwenImagesContract):
    make, family, adapter = staticmethod(make_qwen25vl), QwenVLFamily(), QwenImages


class _ImageFamilyContract(ModelFamilyContract):
    make: ClassVar[Any]

    def make_checkpoint(self, folder: Path) -> Path:
        made: Path = self.make(folder)
        return made

    def prompts(self) -> Sequence[Any]:
        images = [picture(60 + 50 * seed, 90, seed) for seed in range(3)]
        return [
            "no picture",
            {"prompt": "one <image>?", "multi_modal_data": {"image": images[0]}},
            {"prompt": "<image> and <image>", "multi_modal_data": {"image": images[:2]}},
            {"prompt": "<image><image><image>.", "multi_modal_data": {"image": images}},
        ]

    def engine_options(self) -> Mapping[str, Any]:
        return {"max_model_len": 512}


class TestLlavaFamily(_ImageFamilyContract):
    make = staticmethod(make_llava)


class TestMiniCPMVFamily(_ImageFamilyContract):
    make = staticmethod(make_minicpmv)


class TestOneVisionFamily(_ImageFamilyContract):
    make = staticmethod(make_onevision)


class TestPhi3VFamily(_ImageFamilyContract):
    make = staticmethod(make_phi3v)


class TestQwen2VLFamily(_ImageFamilyContract):
    make = staticmethod(make_qwen2vl)


class TestQwen25VLFamily(_ImageFamilyContract):
    make = staticmethod(make_qwen25vl)


@lru_cache
def _folder(make: Any) -> Path:
    """One checkpoint a family for all tests of this file; gone with the process."""
    folder: Path = make(Path(_FOLDER.name) / make.__name__)
    return folder


_FOLDER = tempfile.TemporaryDirectory()
