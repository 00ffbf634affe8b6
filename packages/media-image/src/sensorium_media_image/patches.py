"""Cuts frames into patches and normalises them, for towers that take patches.

Knows nothing of towers: the three lengths and the constants are given. Runs on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Rows of blocks processed at once on the CPU: their intermediate values fit its cache.
ROWS_AT_ONCE = 4


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
    patches = empty_floats((sum(counts), 3, shape.frames, shape.size**2), mean.device)
    for item, target in zip(items, torch.split(patches, counts), strict=True):
        _write(item, shape, mean[:, None, None], std[:, None, None], target)
    return patches.flatten(1)


def _write(item: Tensor, shape: PatchShape, mean: Tensor, std: Tensor, target: Tensor) -> None:
    height, width = item.shape[1:3]
    num_rows = ROWS_AT_ONCE * shape.side if item.device.type == "cpu" else height
    at = 0
    for span in torch.split(item, shape.frames):
        if 1 < len(span) < shape.frames:
            missing = shape.frames - len(span)
            span = torch.cat((span, span[-1:].expand(missing, -1, -1, -1)))
        for part in torch.split(span, num_rows, dim=1):
            values = _cut(part, shape).float().sub_(mean).div_(std)
            target[at : at + len(values)].copy_(values)  # a single frame into all of them
            at += len(values)
    assert at == len(target), f"{height}×{width} pixels are no whole blocks"


def _cut(part: Tensor, shape: PatchShape) -> Tensor:
    """(T', rows·side, columns·side, 3) → (patches, 3, T', P·P)."""
    num_frames, height, width, channels = part.shape
    rows, columns = height // shape.side, width // shape.side
    split = part.reshape(
        (num_frames, rows, shape.merge, shape.size, columns, shape.merge, shape.size, channels)
    )
    blocks_first = split.permute(1, 4, 2, 5, 7, 0, 3, 6)
    return blocks_first.reshape(-1, channels, num_frames, shape.size**2)


def empty_floats(size: tuple[int, ...], device: torch.device) -> Tensor:
    """Uninitialised float32. In host memory numpy's, which asks the system for large pages.

    Fifty megabytes in small pages take longer to be handed out than to be written.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty(size, dtype=np.float32))
    return torch.empty(size, device=device)
