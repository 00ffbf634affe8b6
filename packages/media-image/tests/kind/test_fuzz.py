"""Damaged files: our own errors, or a picture; never anything else."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sensorium.errors import LimitError, MediaError
from sensorium.types import BytesSource
from sensorium_media_image.kind import ImageKind

FILES = [
    ("JPEG", "RGB", {"quality": 80}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": b"\0\1\2"}),
    ("WebP", "RGBA", {}),
    ("WebP", "RGB", {"lossless": True}),
    ("GIF", "P", {"transparency": 3}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
]
NUM_MUTATIONS = 500


def outcome(kind: ImageKind, data: bytes) -> str:
    source = BytesSource(data)
    try:
        probe = kind.probe([source])
        loaded = kind.load([source])
    except (MediaError, LimitError) as error:
        assert str(error).endswith(".")  # noqa: PT017 - which outcome it is isn't known before
        return type(error).__name__
    assert loaded.value.shape == (*loaded.shape.size, 3)
    assert sorted(probe.shape.size) == sorted(loaded.shape.size)
    return "loaded"


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = int(len(mutated) * rng.random() ** 2)  # headers more often than pixels
        action = rng.randrange(4)
        if action == 0:
            mutated[at] = rng.randrange(256)
        elif action == 1:
            mutated[at] ^= 1 << rng.randrange(8)
        elif action == 2:
            del mutated[at : at + rng.randrange(1, 9)]
        else:
            mutated[at:at] = rng.randbytes(rng.randrange(1, 9))
        if not mutated:
            break
    return bytes(mutated)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_mutated_files(
    encode: Callable[..., bytes], noise: Image.Image, name: str, mode: str, options: dict[str, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    if name in ("JPEG", "PNG", "WebP"):
        options = {**options, "exif": exif}
    data = encode(noise.convert(mode), name, **options)
    kind = ImageKind({"max_image_pixels": 1_000_000})
    assert outcome(kind, data) == "loaded"
    rng = random.Random(f"{name} {mode}")
    outcomes = {outcome(kind, mutate(data, rng)) for _ in range(NUM_MUTATIONS)}
    assert "MediaError" in outcomes


@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_cut_files(
    encode: Callable[..., bytes], name: str, mode: str, options: dict[str, int]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels).convert(mode), name, **options)
    kind = ImageKind({})
    for length in range(0, len(data) // 2, max(1, len(data) // 60)):
        assert outcome(kind, data[:length]) == "MediaError", f"cut after {length} bytes"


def test_a_second_header_is_found_out(encode: Callable[..., bytes], noise: Image.Image) -> None:
    png = encode(noise, "PNG")
    big = encode(Image.new("RGB", (2000, 1)), "PNG")
    ihdr = big[8:33]
    doubled = png[:33] + ihdr + png[33:]
    with pytest.raises(MediaError, match="the PNG file is damaged or cut off"):
        ImageKind({}).load([BytesSource(doubled)])


def test_no_warning_is_left_behind(encode: Callable[..., bytes], noise: Image.Image) -> None:
    kind = ImageKind({})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("JPEG", "PNG", "WebP", "GIF", "BMP"):
            assert outcome(kind, encode(noise, name)) == "loaded"
