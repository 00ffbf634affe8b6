"""Resizing and cropping of uint8 pixels on the CPU, one thread a call.

The resize is the routine that torchvision's resize calls for uint8, so that its results are
the same to the bit without torchvision. Memory is numpy's throughout: it asks the system for
large pages, and copying it starts no threads of torch's inside ours. Knows nothing of models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[np.uint8]

_ROUTINES = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
}


def resize(
    pixels: Pixels,
    height: int,
    width: int,
    filter_name: str = "bicubic",
    *,
    columns_first: bool = False,
) -> Tensor:
    """Resizes with antialiasing: along the rows first, rounded, then along the columns.

    Args:
        pixels: (H, W, 3), contiguous.
        height, width: the size wanted, each at least 1.
        filter_name: "bicubic" or "bilinear".
        columns_first: along the columns first, as resizing what is transposed would.

    Returns:
        (height, width, 3) uint8, contiguous, sharing no memory with ``pixels``.
    """
    if pixels.shape[:2] == (height, width):
        return torch.from_numpy(pixels.copy())
    image = _as_tensor(pixels)
    if width == 1 and not columns_first:
        return _by_planes(image, height, width, filter_name)
    if columns_first and image.shape[0] != height:
        image = _resize(image, height, image.shape[1], filter_name)
    if image.shape[1] != width:
        image = _resize(image, image.shape[0], width, filter_name)
    if image.shape[0] != height:
        image = _resize(image, height, width, filter_name)
    return image


def _resize(image: Tensor, height: int, width: int, filter_name: str) -> Tensor:
    """One axis, so that what lies between the two is in numpy's memory as well.

    Into memory with the channels last torch writes three times as fast as into the planes
    that ``interpolate`` would allocate; both call the same code. A single column isn't written
    so: there some processors err.
    """
    if width == 1:
        return _by_planes(image, height, width, filter_name)
    resized = torch.from_numpy(np.empty((height, width, 3), dtype=np.uint8))
    _ROUTINES[filter_name](_planes(image), [height, width], False, None, None, out=_planes(resized))
    return resized


def _by_planes(image: Tensor, height: int, width: int, filter_name: str) -> Tensor:
    """As everyone calls it."""
    resized = torch.nn.functional.interpolate(
        _planes(image), (height, width), mode=filter_name, align_corners=False, antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous()


def centre_crop(image: Tensor, height: int, width: int) -> Tensor:
    """The middle (height, width) of (H, W, 3); half a pixel left over goes to the far side."""
    top = (image.shape[0] - height) // 2
    left = (image.shape[1] - width) // 2
    assert top >= 0, "the crop is higher than what it is cut from"
    assert left >= 0, "the crop is wider than what it is cut from"
    window = image.numpy()[top : top + height, left : left + width]
    return torch.from_numpy(np.ascontiguousarray(window))


def _planes(image: Tensor) -> Tensor:
    """(H, W, 3) as (1, 3, H, W), without moving anything."""
    return image.permute(2, 0, 1)[None]


def _as_tensor(pixels: Pixels) -> Tensor:
    """The same memory as a tensor; a copy where it may not be written, which torch warns of."""
    array: npt.NDArray[Any] = pixels if pixels.flags.writeable else pixels.copy()
    return torch.from_numpy(array)
