"""Small arrays on their way to the device and back, without making the host wait.

An ordinary copy waits until the device has finished all earlier work. A copy from or to pinned
memory is only queued; the allocator keeps that memory until the copy is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Where an array may begin in the common buffer, in bytes.
_ALIGNMENT = 16


def upload(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays of any shapes and dtypes as tensors on the device, by one copy."""
    if device.type != "cuda":
        return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]
    offsets, size = [], 0
    for array in arrays:
        offsets.append(size)
        size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    staged = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    view = staged.numpy()
    for array, offset in zip(arrays, offsets, strict=True):
        here = view[offset : offset + array.nbytes]
        here.view(array.dtype).reshape(array.shape)[...] = array
    there = staged.to(device, non_blocking=True)
    tensors = []
    for array, offset in zip(arrays, offsets, strict=True):
        part = there[offset : offset + array.nbytes]
        tensors.append(part.view(_dtype_of(array)).view(array.shape))
    return tensors


def upload_list(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a (len(values),) tensor on the device."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    staged = torch.tensor(values, dtype=dtype).pin_memory()
    return staged.to(device, non_blocking=True)


class Download:
    """Tensors of one device on their way to the host; they arrive once all before them is done."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        self._tensors = list(tensors)
        if tensors and tensors[0].is_cuda:
            self._tensors = [
                torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
                for t in tensors
            ]
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> list[Tensor]:
        """The tensors on the host, in the order in which they were given."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors


def _dtype_of(array: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype=array.dtype)).dtype
