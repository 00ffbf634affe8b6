"""Row 12 (CVE-2026-22773): huge, empty and extreme images are refused from the header."""

from __future__ import annotations

import asyncio
import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from sensorium.errors import LimitError, MediaError, RequestError
from sensorium.media.pipeline import MediaPipeline, PreparedMedia
from sensorium.plugins import ModelContext, TokenizerView
from sensorium.types import BytesSource, ValueSource
from sensorium_media_image.families import ADAPTERS, FAMILIES
from sensorium_media_image.kind import ImageKind
from sensorium_media_image.manifests import load_manifest

KIND = ImageKind({})


def png(width: int, height: int, *, rows: int = 0) -> bytes:
    """A PNG that claims a size and holds the compressed zeros of ``rows`` rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + 3 * width) * rows), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


WEBP = b"RIFF\x20\0\0\0WEBP"
BOMBS = {
    "PNG": png(100_000, 100_000, rows=10),
    "JPEG": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01",
    "GIF screen": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    "GIF frame": b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    "WebP lossy": b"RIFF\x20\0\0\0WEBPVP8 \x14\0\0\0\x30\x01\0\x9d\x01\x2a\xff\x3f\xff\x3f"
    + bytes(20),
    "WebP lossless": b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0\x2f\xff\xff\xff\x0f" + bytes(20),
    "WebP extended": b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff"
    + bytes(20),
    "BMP": b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 65535, 65535, 1, 24, 0) + bytes(20),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_anything_is_allocated(name: str) -> None:
    source = BytesSource(BOMBS[name])
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in (KIND.probe, KIND.load):
                with pytest.raises(LimitError, match=r"pixels; max_image_pixels allows 89478485"):
                    step([source])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_lazily_opened_bomb_is_refused_before_it_is_decoded() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # an application that has switched Pillow's check off
        picture = Image.open(io.BytesIO(png(20_000, 20_000, rows=3)))
        for step in (KIND.digest, KIND.probe, KIND.load):
            with pytest.raises(LimitError, match="it is 20000×20000, 400000000 pixels"):
                step([ValueSource(picture)])
        assert Image.MAX_IMAGE_PIXELS is None, "the application's setting is left alone"
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def test_an_applications_own_limit_does_not_matter() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    data = png(64, 64, rows=64)
    try:
        Image.MAX_IMAGE_PIXELS = 100
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert KIND.load([BytesSource(data)]).shape.size == (64, 64)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def test_the_budget_is_the_operators() -> None:
    kind = ImageKind({"max_image_pixels": 100})
    assert kind.probe([BytesSource(png(10, 10, rows=10))]).shape.size == (10, 10)
    for source in (BytesSource(png(101, 1)), ValueSource(np.zeros((1, 101, 3), np.uint8))):
        with pytest.raises(LimitError, match=r"it is 101×1, 101 pixels; .* allows 100"):
            kind.probe([source])


@pytest.mark.parametrize("size", [(0, 7), (7, 0), (0, 0)])
def test_images_without_pixels(size: tuple[int, int]) -> None:
    width, height = size
    values = [
        BytesSource(png(width, height)),
        ValueSource(Image.new("RGB", size)),
        ValueSource(np.zeros((height, width, 3), np.uint8)),
    ]
    for source in values:
        for step in (KIND.probe, KIND.load):
            with pytest.raises(MediaError, match=f"it is {width}×{height} pixels; .* at least 1×1"):
                step([source])


# --- every family ----------------------------------------------------------------------

CHECKPOINTS = {
    "LlavaForConditionalGeneration": "llava_1_5_7b",
    "Qwen2VLForConditionalGeneration": "qwen2_vl_2b",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl_3b",
}


#: Asked in packages/media-image/tests/test_tiling.py, test_slicing.py and test_anyres.py.
ASKED_ELSEWHERE = {
    "Phi3VForCausalLM",
    "MiniCPMV",
    "LlavaOnevisionForConditionalGeneration",
}


def test_every_family_is_asked() -> None:
    names = {name for family in FAMILIES for name in family.architectures}
    assert names == set(CHECKPOINTS) | ASKED_ELSEWHERE


@pytest.fixture(params=CHECKPOINTS)
def pipeline(request: pytest.FixtureRequest) -> Iterator[MediaPipeline]:
    """A pipeline with one family's adapter, as its published checkpoint configures it."""
    architecture: str = request.param
    (adapter_class,) = (cls for cls in ADAPTERS if architecture in cls.architectures)
    manifest = load_manifest(CHECKPOINTS[architecture])
    (family,) = (family for family in FAMILIES if architecture in family.architectures)
    context = ModelContext(
        architecture=architecture,
        config=manifest.config,
        processor=manifest.preprocessor_config,
        decoder=family.decoder_config(manifest.config),
        tokenizer=cast(TokenizerView, None),  # no adapter needs one to plan
    )
    made = MediaPipeline(
        {"image": KIND},
        {"image": adapter_class(context)},
        limits={},
        processor_kwargs={},
        cache_bytes=0,
        num_threads=2,
        uuids_ignored=False,
        architecture=architecture,
    )
    yield made
    made.close()


def prepare(pipeline: MediaPipeline, value: Any) -> PreparedMedia:
    return asyncio.run(pipeline.prepare(pipeline.split({"image": value})))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 3)])
def test_small_images_work(pipeline: MediaPipeline, size: tuple[int, int]) -> None:
    (item,) = prepare(pipeline, Image.new("RGB", size)).items
    assert item.plan.num_tokens >= 1
    assert item.features


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 201)])
def test_extreme_shapes_are_refused_with_the_familys_rule(
    pipeline: MediaPipeline, size: tuple[int, int]
) -> None:
    with pytest.raises(RequestError, match=r"^image 0: .* 200 times the shorter"):
        prepare(pipeline, Image.new("RGB", size))
    assert prepare(pipeline, Image.new("RGB", (64, 64))).items, "the engine goes on"


def test_bombs_are_refused_by_name(pipeline: MediaPipeline) -> None:
    good = Image.new("RGB", (64, 64))
    with pytest.raises(LimitError, match=r"^image 1: it is 100000×100000, 10000000000 pixels"):
        prepare(pipeline, [good, BOMBS["PNG"]])
