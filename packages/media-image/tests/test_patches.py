"""Patches: transformers' numbers in transformers' order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from family_helpers import random_image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sensorium_media_image.patches import PatchShape, normalised_patches
from sensorium_media_image.towers.normalise import Normalisation

SHAPE = PatchShape(size=14, merge=2, frames=2)
CPU = torch.device("cpu")


def cut(*items: Tensor, shape: PatchShape = SHAPE) -> Tensor:
    return normalised_patches(items, shape, *Normalisation().constants(CPU))


def random_frames(*size: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)


def one_by_one(pixels: Tensor, shape: PatchShape) -> np.ndarray[Any, Any]:
    """The same with loops, in float64."""
    normalisation = Normalisation()
    values = pixels.double().numpy() * normalisation.rescale
    values = (values - np.array(normalisation.mean)) / np.array(normalisation.std)
    while len(values) % shape.frames:
        values = np.concatenate((values, values[-1:]))
    found = []
    for t in range(0, len(values), shape.frames):
        for block_y in range(0, pixels.shape[1], shape.side):
            for block_x in range(0, pixels.shape[2], shape.side):
                for y in range(block_y, block_y + shape.side, shape.size):
                    for x in range(block_x, block_x + shape.side, shape.size):
                        patch = values[t : t + shape.frames, y : y + shape.size, x : x + shape.size]
                        found.append(patch.transpose(3, 0, 1, 2).ravel())
    return np.array(found)


@pytest.mark.parametrize("size", [(56, 84), (28, 28), (280, 56)])
def test_transformers_gives_the_same(size: tuple[int, int]) -> None:
    pixels = random_image(*size, seed=1)
    processor = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=784, max_pixels=10**6
    )
    reference = processor(pixels, return_tensors="pt", input_data_format="channels_last")
    ours = cut(torch.from_numpy(pixels)[None])
    assert reference["image_grid_thw"].tolist() == [[1, size[0] // 14, size[1] // 14]]
    torch.testing.assert_close(ours, reference["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [SHAPE, PatchShape(4, 3, 3), PatchShape(16, 1, 1)])
def test_frames_and_other_shapes(num_frames: int, shape: PatchShape) -> None:
    pixels = random_frames(num_frames, 3 * shape.side, 2 * shape.side)
    ours = cut(pixels, shape=shape)
    assert ours.dtype == torch.float32
    assert shape.num_patches(pixels) == len(ours)
    np.testing.assert_allclose(ours, one_by_one(pixels, shape), rtol=0, atol=2e-6)


def test_items_lie_one_behind_another() -> None:
    items = random_frames(1, 28, 56), random_frames(3, 84, 28), random_frames(2, 28, 28)
    together = cut(*items)
    assert together.is_contiguous()
    assert torch.equal(together, torch.cat([cut(item) for item in items]))


def test_no_items() -> None:
    assert cut().shape == (0, 3 * 2 * 14 * 14)


def test_the_pixels_are_left_as_they_are() -> None:
    pixels = random_frames(1, 28, 28)
    before = pixels.clone()
    cut(pixels)
    assert torch.equal(pixels, before)


@pytest.mark.gpu
def test_the_accelerator_gives_the_same_bits() -> None:
    items = [random_frames(1, 84, 56), random_frames(3, 28, 28)]
    device = torch.device("cuda")
    constants = Normalisation().constants(device)
    there = normalised_patches([item.to(device) for item in items], SHAPE, *constants)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), cut(*items), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(28, 42), (30, 55), (14, 14)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_views_are_cut_as_a_convolution_sees_them(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    """What is left over on the right and below is cut off."""
    pixels = torch.from_numpy(np.stack([random_image(*size, seed) for seed in range(2)]))
    planes = pixels.float().permute(0, 3, 1, 2)
    expected = torch.nn.functional.unfold(planes, 14, stride=14).transpose(1, 2)
    mean, std = (c.repeat_interleave(196) for c in Normalisation().constants(CPU))
    normalised = Normalisation().patches(pixels.to(dtype), 14, CPU)
    assert torch.equal(normalised, (expected - mean) / std)
