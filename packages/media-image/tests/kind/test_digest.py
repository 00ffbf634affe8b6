"""Two images share a digest only if they load alike (see also the security test of row 6)."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from sensorium.types import BytesSource, ValueSource
from sensorium_media_image.kind import ImageKind

KIND = ImageKind({})


def digest(value: object) -> bytes:
    source = BytesSource(value) if isinstance(value, bytes) else ValueSource(value)
    return KIND.digest([source])


def test_equal_values_share(noise: Image.Image) -> None:
    array = np.asarray(noise)
    assert digest(noise) == digest(noise.copy())
    assert digest(array) == digest(array.copy()) == digest(torch.from_numpy(array.copy()))
    assert digest(array) == digest(np.asfortranarray(array))
    assert len(digest(array)) == 32


def test_lazy_and_loaded_share(noise: Image.Image, encode: Callable[..., bytes]) -> None:
    data = encode(noise, "PNG")
    lazy, loaded = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(data))
    loaded.load()
    assert digest(lazy) == digest(loaded) == digest(noise)


def test_everything_that_load_looks_at_counts(noise: Image.Image) -> None:
    turned, keyed = noise.copy(), noise.copy()
    turned.getexif()[0x0112] = 6
    keyed.info["transparency"] = (1, 2, 3)
    palette = Image.new("P", (4, 4))
    palette.putpalette([1, 2, 3])
    other, with_alpha, keyed_palette = palette.copy(), palette.copy(), palette.copy()
    other.putpalette([1, 2, 4])
    with_alpha.putpalette([1, 2, 3, 255], "RGBA")
    keyed_palette.info["transparency"] = 0
    values = [
        noise,
        turned,
        keyed,
        palette,
        other,
        with_alpha,
        keyed_palette,
        noise.convert("RGBA"),
        noise.convert("YCbCr"),
        Image.new("L", (4, 6)),
        Image.new("L", (6, 4)),
        Image.new("L", (24, 1)),
        Image.new("1", (6, 4)),
        np.zeros((4, 6, 1), np.uint8),
        np.zeros((6, 4, 1), np.uint8),
        np.zeros((1, 4, 6), np.uint8),
        np.zeros((4, 6, 1), np.float32),
        b"",
        bytes(24),
    ]
    assert len({digest(value) for value in values}) == len(values)


def test_bytes_are_not_decoded() -> None:
    assert digest(b"not an image") != digest(b"not an image either")
