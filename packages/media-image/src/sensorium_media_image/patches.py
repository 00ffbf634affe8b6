"""Cuts frames into patches and normalises them, for towers that take patches.

Knows nothing of towers: the three lengths and the constants are given. Runs on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sensorium.ops import cut_blocks


@dataclass(frozen=True, slots=True)
class PatchShape:
    """How frames are cut.

    Attributes:
        size: side of a patch in pixels, P.
        merge: patches of a block along each axis, m.
        frames: frames that a patch spans, T.
    """

    size: int
    merge: int
    frames: int

    @property
    def side(self) -> int:
        """Side of a block in pixels."""
        return self.size * self.merge

    def num_patches(self, pixels: Tensor) -> int:
        """Of (frames, height, width, 3)."""
        num_frames, height, width, _ = pixels.shape
        return -(-num_frames // self.frames) * (height // self.size) * (width // self.size)


def normalised_patches(
    items: Sequence[Tensor], shape: PatchShape, mean: Tensor, std: Tensor
) -> Tensor:
    """(value - mean) / std of every pixel, patch by patch, the patches of a block together.

    An odd last frame stands for the ones it lacks too, as in the published processors. Where
    it is alone in its span it is computed once and written T times.

    Args:
        items: each (frames, height, width, 3) uint8, of whole blocks, of any sizes.
        mean, std: (3,) float32 on the same device, in units of the uint8 values.

    Returns:
        (N, 3·T·P·P) float32: N by item, frames, block row, block column, row, column; the
        elements of each by channel, frame, row, column.
    """
    counts = [shape.num_patches(item) for item in items]
    patches = empty_floats((sum(counts), 3 * shape.frames * shape.size**2), mean.device)
    for item, target in zip(items, torch.split(patches, counts), strict=True):
        _write(item, shape, mean, std, target)
    return patches


def _write(item: Tensor, shape: PatchShape, mean: Tensor, std: Tensor, target: Tensor) -> None:
    rows, columns = item.shape[1] // shape.side, item.shape[2] // shape.side
    assert item.shape[1:3] == (rows * shape.side, columns * shape.side), "no whole blocks"
    m, area = shape.merge, shape.size**2
    spans = torch.split(item, shape.frames)
    for span, part in zip(spans, torch.split(target, rows * columns * m * m), strict=True):
        if 1 < len(span) < shape.frames:
            missing = shape.frames - len(span)
            span = torch.cat((span, span[-1:].expand(missing, -1, -1, -1)))
        cut = cut_blocks(span, shape.size, mean, std).view(-1, rows, m, columns, m, 3, area)
        blocks = part.view(rows, columns, m, m, 3, shape.frames, area)
        blocks.copy_(cut.permute(1, 3, 2, 4, 5, 0, 6))  # a single frame into all of them


def empty_floats(size: tuple[int, ...], device: torch.device) -> Tensor:
    """Uninitialised float32. In host memory numpy's, which asks the system for large pages.

    Fifty megabytes in small pages take longer to be handed out than to be written.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(size, dtype=np.float32))
    return torch.empty(size, device=device)
