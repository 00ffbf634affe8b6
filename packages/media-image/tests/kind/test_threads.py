"""One image from several threads: each gets the same picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sensorium.types import BytesSource, ValueSource
from sensorium_media_image.kind import ImageKind


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF"])
def test_a_lazily_opened_image_from_several_threads(
    encode: Callable[..., bytes], name: str
) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(pixels)
    data = encode(picture, name, **({} if name == "GIF" else {"exif": exif}))
    kinds = ImageKind({}), ImageKind({})
    expected = kinds[0].load([BytesSource(data)]).value
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            source = ValueSource(Image.open(io.BytesIO(data)))
            loaded = list(pool.map(lambda i, s=source: kinds[i % 2].load([s]).value, range(8)))
            digests = set(pool.map(lambda i, s=source: kinds[i % 2].digest([s]), range(4)))
            assert len(digests) == 1
            for value in loaded:
                np.testing.assert_array_equal(value, expected)
