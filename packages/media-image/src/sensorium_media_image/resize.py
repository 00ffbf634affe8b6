"""Resizing and cropping of uint8 pixels on the CPU.

The resize is the routine that torchvision's resize calls for uint8, so that its results are
the same to the bit without torchvision. Knows nothing of models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[np.uint8]


def resize(pixels: Pixels, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing: along the rows first, rounded, then along the columns.

    Args:
        pixels: (H, W, 3), contiguous.
        height, width: the size wanted, each at least 1.

    Returns:
        (height, width, 3) uint8, contiguous, sharing no memory with ``pixels``.
    """
    image = _as_tensor(pixels)
    if pixels.shape[:2] == (height, width):
        return image.clone()
    planes = image.permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        planes, (height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous()


def centre_crop(image: Tensor, height: int, width: int) -> Tensor:
    """The middle (height, width) of (H, W, 3); half a pixel left over goes to the far side."""
    top = (image.shape[0] - height) // 2
    left = (image.shape[1] - width) // 2
    assert top >= 0, "the crop is higher than what it is cut from"
    assert left >= 0, "the crop is wider than what it is cut from"
    return image[top : top + height, left : left + width].contiguous()


def _as_tensor(pixels: Pixels) -> Tensor:
    """The same memory as a tensor; a copy where it may not be written, which torch warns of."""
    array: npt.NDArray[Any] = pixels if pixels.flags.writeable else pixels.copy()
    return torch.from_numpy(array)
