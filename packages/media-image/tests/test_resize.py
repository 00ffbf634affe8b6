"""Resizing: the same to the bit as torchvision's, and as good as Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_helpers import one_axis_resizes, random_image
from PIL import Image

from sensorium_media_image.resize import centre_crop, resize

#: (height, width) → (height, width): smaller, larger, mixed, extreme.
SIZES = [
    ((480, 640), (336, 448)),
    ((100, 80), (420, 336)),
    ((1080, 1920), (728, 1316)),
    ((333, 517), (56, 700)),
    ((3, 400), (56, 560)),
    ((1, 200), (28, 812)),
    ((1, 1), (56, 56)),
]


@pytest.mark.parametrize(("size", "target"), SIZES)
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("filter_name", ["bicubic", "bilinear"])
def test_pillow_differs_by_two_levels_in_one_percent_at_most(
    size: tuple[int, int], target: tuple[int, int], smooth: bool, filter_name: str
) -> None:
    pixels = random_image(*size, seed=1)
    if not smooth:
        pixels = np.random.default_rng(2).integers(0, 256, pixels.shape, dtype=np.uint8)
    ours = resize(pixels, *target, filter_name).numpy()
    with one_axis_resizes():
        reference = np.asarray(
            Image.fromarray(pixels).resize(target[::-1], Image.Resampling[filter_name.upper()])
        )
    difference = np.abs(ours.astype(int) - reference)
    assert difference.max() <= 2
    assert np.mean(difference > 0) <= 0.01


@pytest.mark.parametrize(
    ("size", "target"),
    [*SIZES, ((28, 7), (64, 1)), ((7, 28), (1, 64)), ((9, 9), (9, 20)), ((9, 9), (20, 9))],
)
def test_the_memory_layout_does_not_change_the_result(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    """torchvision reads and writes planes; we read and write the array as it lies in memory."""
    pixels = random_image(*size, seed=3)
    planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None]
    reference = torch.nn.functional.interpolate(planes, target, mode="bicubic", antialias=True)
    assert torch.equal(resize(pixels, *target), reference[0].permute(1, 2, 0))


@pytest.mark.parametrize(("size", "target"), [*SIZES, ((28, 7), (64, 1)), ((7, 28), (1, 64))])
def test_columns_first_is_resizing_the_transposed(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    pixels = random_image(*size, seed=5)
    turned = resize(np.ascontiguousarray(pixels.transpose(1, 0, 2)), *target[::-1], "bilinear")
    ours = resize(pixels, *target, "bilinear", columns_first=True)
    assert torch.equal(ours, turned.transpose(0, 1))


def test_the_result_is_contiguous_and_owns_its_memory() -> None:
    pixels = random_image(20, 30, seed=4)
    for target in ((20, 30), (10, 15)):
        resized = resize(pixels, *target)
        before = resized.clone()
        pixels += 1
        assert resized.is_contiguous()
        assert torch.equal(resized, before)


@pytest.mark.filterwarnings("error")
def test_memory_that_may_not_be_written_is_taken_without_a_warning() -> None:
    pixels = random_image(20, 30, seed=5)
    expected = resize(pixels, 14, 14)
    pixels.flags.writeable = False
    assert torch.equal(resize(pixels, 14, 14), expected)


def test_the_crop_is_the_middle() -> None:
    image = torch.arange(5 * 8 * 3).view(5, 8, 3)
    assert torch.equal(centre_crop(image, 2, 5), image[1:3, 1:6])
    assert torch.equal(centre_crop(image, 5, 8), image)


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "target"), SIZES)
def test_torchvision_gives_the_same_bits(size: tuple[int, int], target: tuple[int, int]) -> None:
    """Runs where torchvision is: the machine with the accelerator. Computes on the CPU."""
    from torchvision.transforms.v2 import functional

    pixels = random_image(*size, seed=6)
    planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    reference = functional.resize(
        planes, list(target), interpolation=functional.InterpolationMode.BICUBIC, antialias=True
    )
    assert torch.equal(resize(pixels, *target), reference.permute(1, 2, 0))
