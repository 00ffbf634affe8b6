"""Grids of cells with a few channels each: cut into blocks of normalised values, and resampled.

By the extension on the CPU, in one pass over what is read; elsewhere in plain torch, which defines
what is right.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import extension

#: The cubic's parameter, Keys's a (1981), as ``torch.nn.functional.interpolate`` has it.
CUBIC = -0.75
#: What the results are made of, for the question whether the extension can be used.
_FLOATS = torch.empty(0)


def cut_blocks(x: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std of every cell, block by block.

    What is left over on the far sides is cut off.

    Args:
        x: (B, H, W, C) uint8 or float32.
        size: of a block along each axis, in cells.
        mean, std: (C,) float32 on the same device.

    Returns:
        (B, blocks, C · size²) float32: blocks by row and column; the elements of each by channel,
        row, column.
    """
    batch, height, width, channels = x.shape
    assert size > 0, "a block has no cells"
    assert x.dtype in (torch.uint8, torch.float32), f"cells of {x.dtype}"
    assert mean.dtype == std.dtype == torch.float32, "constants in float32"
    rows, columns = height // size, width // size
    assert mean.shape == std.shape == (channels,), "a mean and a deviation for each channel"
    if compiled := _compiled("cut_blocks", x):
        extension.count(x, "cut_blocks")
        x, mean, std = x.contiguous(), mean.contiguous(), std.contiguous()
        out = _empty(batch, rows * columns, channels * size**2)
        given = (x.dtype == torch.uint8, batch, height, width, channels, size)
        pointers = (mean.data_ptr(), std.data_ptr(), out.data_ptr())
        compiled(x.data_ptr(), *given, *pointers)
        return out
    whole = x[:, : rows * size, : columns * size]
    split = whole.reshape(batch, rows, size, columns, size, channels).permute(0, 1, 3, 5, 2, 4)
    parted = split.reshape(batch, rows * columns, channels, size**2)
    values = parted.to(torch.float32, copy=True)  # x may be floats, and is left as it is
    return values.sub_(mean[:, None]).div_(std[:, None]).flatten(2)


def cubic_sample(x: Tensor, rows: int, columns: int) -> Tensor:
    """A grid resampled by cubic convolution (Keys 1981) without antialiasing: ``interpolate``'s
    "bicubic", corners not aligned.

    Args:
        x: (H, W, C) uint8.
        rows, columns: wanted.

    Returns:
        (rows, columns, C) float32, not rounded.
    """
    height, width, channels = x.shape
    assert x.dtype == torch.uint8, f"cells of {x.dtype}"
    if compiled := _compiled("cubic_sample", x):
        extension.count(x, "cubic_sample")
        x = x.contiguous()
        row_cells, row_weights = _cubic(height, rows)
        column_cells, column_weights = _cubic(width, columns)
        out = _empty(rows, columns, channels)
        tables = (row_cells, column_cells, row_weights, column_weights)
        pointers = (*(table.ctypes.data for table in tables), out.data_ptr())
        compiled(x.data_ptr(), width, channels, rows, columns, *pointers)
        return out
    planes = x.float().permute(2, 0, 1)[None]
    sampled = F.interpolate(planes, (rows, columns), mode="bicubic", align_corners=False)
    return sampled[0].permute(1, 2, 0)


@functools.lru_cache(maxsize=64)
def _cubic(size: int, wanted: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each place wanted along an axis, (wanted, 4) each: which cells, and their weights.

    Cells beyond the border are those at the border.
    """
    at = (np.arange(wanted) + 0.5) * (size / wanted) - 0.5
    first = np.floor(at)
    distance = np.abs(at[:, None] - first[:, None] - np.arange(-1, 3))
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    cells = np.clip(first[:, None] + np.arange(-1, 3), 0, size - 1).astype(np.int32)
    return cells, np.where(distance <= 1, near, far).astype(np.float32)


def _compiled(name: str, x: Tensor) -> Callable[..., None] | None:
    """The extension's function, if it can be used for ``x``."""
    if x.device.type != "cpu" or not extension.serves(_FLOATS):
        return None
    return _functions().get(name)


@functools.cache
def _functions() -> Mapping[str, Callable[..., None]]:
    """The extension's functions; a library that was built before they were written has none."""
    library = ctypes.CDLL(str(extension.FOLDER / extension.LIBRARIES["cpu"]))
    number, address = ctypes.c_int32, ctypes.c_void_p
    arguments = {
        "cut_blocks": [address, *[number] * 6, *[address] * 3],
        "cubic_sample": [address, *[number] * 4, *[address] * 5],
    }
    found = {}
    for name, types in arguments.items():
        function = getattr(library, f"sensorium_{name}", None)
        if function is not None:
            function.restype, function.argtypes = None, types
            found[name] = function
    return found


def _empty(*size: int) -> Tensor:
    """Uninitialised float32 in numpy's memory, which asks the system for large pages."""
    return torch.from_numpy(np.empty(size, dtype=np.float32))
