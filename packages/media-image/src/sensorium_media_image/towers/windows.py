"""Which patches of an image see each other in Qwen2.5-VL's tower, and where they stand.

A patch grid (t, h, w) is ordered by merged patches: rows of blocks of m×m patches, which
later become one embedding row each. For windowed attention the blocks are reordered so that
each window's lie together:

    blocks  0 1 2 │ 3 4      window order: 0 1 2 5 6 7 │ 3 4 8 9 │ …
            5 6 7 │ 8 9

Windows at the right and lower edges are smaller. Depends on sizes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Grid = tuple[int, int, int]
#: Grids whose layouts are kept; a large one takes about a megabyte.
CACHED_LAYOUTS = 32


@dataclass(frozen=True, slots=True)
class WindowLayout:
    """One item's layout, in window order; N patches in N/m² blocks.

    Attributes:
        blocks: (N/m²,) int64: the block that stands at each place.
        rows, columns: (N,) int64: each patch's place in the grid.
        window_lengths: patches of each window; they add up to N.
        frame_lengths: patches of each frame; they add up to N.
    """

    blocks: Tensor
    rows: Tensor
    columns: Tensor
    window_lengths: tuple[int, ...]
    frame_lengths: tuple[int, ...]


@lru_cache(maxsize=CACHED_LAYOUTS)
def window_layout(grid: Grid, merge_size: int, window_blocks: int) -> WindowLayout:
    """The layout of a grid of patches.

    Args:
        grid: (frames, rows, columns) of patches; rows and columns are multiples of
            ``merge_size``.
        merge_size: patches of a block along each axis, m.
        window_blocks: blocks of a window along each axis.
    """
    frames, height, width = grid
    assert height % merge_size == 0, "the rows of patches don't fill blocks"
    assert width % merge_size == 0, "the columns of patches don't fill blocks"
    block_rows, block_columns = height // merge_size, width // merge_size
    row, column = np.divmod(np.arange(block_rows * block_columns), block_columns)
    window = row // window_blocks * -(-block_columns // window_blocks) + column // window_blocks
    order = np.argsort(window, kind="stable")
    in_block_row, in_block_column = np.divmod(np.arange(merge_size**2), merge_size)
    rows = (row[order, None] * merge_size + in_block_row).reshape(-1)
    columns = (column[order, None] * merge_size + in_block_column).reshape(-1)
    lengths = np.bincount(window) * merge_size**2
    blocks = np.arange(frames)[:, None] * len(order) + order
    return WindowLayout(
        blocks=torch.from_numpy(blocks.reshape(-1)),
        rows=torch.from_numpy(np.tile(rows, frames)),
        columns=torch.from_numpy(np.tile(columns, frames)),
        window_lengths=tuple(lengths.tolist()) * frames,
        frame_lengths=(height * width,) * frames,
    )
