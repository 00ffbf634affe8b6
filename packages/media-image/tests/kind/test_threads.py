"""One image from several threads: each gets the same picture; and none starts more threads."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sensorium.types import BytesSource, ValueSource
from sensorium_media_image.kind import ImageKind
from sensorium_media_image.resize import centre_crop, resize


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


TASKS = Path("/proc/self/task")


@pytest.mark.skipif(not TASKS.exists(), reason="only Linux lists a process's threads")
@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="elsewhere torch's resize for uint8 is another, which shares its work out",
)
def test_torch_starts_no_threads_inside_ours(encode: Callable[..., bytes]) -> None:
    """Torch starts as many as it may in each thread that gives it work worth sharing."""
    pixels = np.zeros((900, 1200, 3), dtype=np.uint8)
    files = [encode(Image.fromarray(pixels), name) for name in ("JPEG", "PNG")]

    def prepare() -> int:
        for data in files:
            rgb = ImageKind({}).load([BytesSource(data)]).value
            for size in ((700, 1400), rgb.shape[:2]):
                centre_crop(resize(rgb, *size), 600, 700)
        return sum(1 for _ in TASKS.iterdir())

    def share() -> int:
        torch.zeros(2_000_000).add_(1)
        return sum(1 for _ in TASKS.iterdir())

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        num_alone = len(list(TASKS.iterdir()))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(prepare).result() == num_alone + 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(share).result() > num_alone + 1, "this is what must not happen"
    finally:
        torch.set_num_threads(before)
