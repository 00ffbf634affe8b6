"""Pictures of every mode, through the kind and each family, against transformers' processors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_helpers import make_adapter, one_axis_resizes, open_folder, random_image, raw_patches
from PIL import Image
from tiny_checkpoints import make_llava, make_qwen2vl, make_qwen25vl

from sensorium.plugins import MediaAdapter
from sensorium.types import BytesSource
from sensorium_media_image.families.llava import LlavaFamily, LlavaImages
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily
from sensorium_media_image.kind import ImageKind

KIND = ImageKind({})
MODES = {
    "grey": ("L", "PNG"),
    "palette": ("P", "PNG"),
    "black and white": ("1", "PNG"),
    "CMYK": ("CMYK", "JPEG"),
    "animated": ("P", "GIF"),
}


def encoded(mode: str, file_format: str, size: tuple[int, int] = (90, 130)) -> bytes:
    picture = Image.fromarray(random_image(*size, seed=6)).convert(mode)
    file = io.BytesIO()
    others = {}
    if file_format == "GIF":
        others = {"save_all": True, "append_images": [picture.rotate(180)]}
    picture.save(file, file_format, **others)
    return file.getvalue()


@pytest.fixture(scope="module", params=["llava", "qwen2-vl", "qwen2.5-vl"])
def adapter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> MediaAdapter:
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    if request.param == "llava":
        return make_adapter(LlavaImages, LlavaFamily(), open_folder(make_llava(folder)))
    make = make_qwen2vl if request.param == "qwen2-vl" else make_qwen25vl
    return make_adapter(QwenImages, QwenVLFamily(), open_folder(make(folder)))


def features(adapter: MediaAdapter, data: bytes) -> np.ndarray[Any, Any]:
    """What the tower is given, as transformers' processor would lay it out."""
    image = KIND.load([BytesSource(data)])
    options = adapter.options({})
    pixels = adapter.process(image, adapter.plan(image.shape, options), options)["tower"]["pixels"]
    if isinstance(adapter, QwenImages):
        return raw_patches(pixels, adapter._tower)[0].numpy()
    return pixels.permute(2, 0, 1).numpy()


def reference(adapter: MediaAdapter, data: bytes) -> np.ndarray[Any, Any]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    cls = Qwen2VLImageProcessorPil if isinstance(adapter, QwenImages) else CLIPImageProcessorPil
    options = {**adapter.context.processor, "do_rescale": False, "do_normalize": False}
    with one_axis_resizes():
        batch = cls(**options)(Image.open(io.BytesIO(data)), return_tensors="np")
    values: np.ndarray[Any, Any] = batch["pixel_values"]
    return values if isinstance(adapter, QwenImages) else values[0]


@pytest.mark.parametrize("name", MODES)
def test_modes_that_transformers_takes(adapter: MediaAdapter, name: str) -> None:
    data = encoded(*MODES[name])
    difference = np.abs(features(adapter, data).astype(int) - reference(adapter, data))
    assert difference.max() <= 2
    assert np.mean(difference > 0) <= 0.01


def test_sixteen_bits_keep_their_high_byte(adapter: MediaAdapter) -> None:
    """transformers cuts all levels above 255 to white, which is no reference."""
    levels = random_image(90, 130, seed=6)[:, :, 0]
    wide, plain = io.BytesIO(), io.BytesIO()
    Image.fromarray(levels.astype(np.uint16) * 256 + 77).save(wide, "PNG")
    Image.fromarray(levels).save(plain, "PNG")
    assert np.array_equal(features(adapter, wide.getvalue()), features(adapter, plain.getvalue()))
