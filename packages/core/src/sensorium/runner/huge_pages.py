"""Weights in huge pages of the processor's memory.

A decode step reads every weight once. With pages of 4 KiB the processor spends part of that time on
translating addresses; with pages of 2 MiB almost none. Linux provides such pages to programs that
ask for them.
"""

from __future__ import annotations

import mmap

import torch
from torch import nn

#: Bytes of a huge page, on x86-64 and most of ARM64.
_PAGE = 1 << 21
#: Where a tensor may begin, in bytes.
_ALIGNMENT = 64


def move_into_huge_pages(module: nn.Module) -> None:
    """Moves the parameters of a module on the CPU into one block, if the system has such pages.

    Each is freed once it is moved, so that little more memory is needed meanwhile than before.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    parameters = {id(p): p for p in module.parameters()}.values()
    sizes = [-(-p.nbytes // _ALIGNMENT) * _ALIGNMENT for p in parameters]
    block = mmap.mmap(-1, sum(sizes) + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        block.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return  # the system was built without them
    memory = torch.frombuffer(block, dtype=torch.uint8)
    start = -memory.data_ptr() % _PAGE
    for parameter, size in zip(parameters, sizes, strict=True):
        place = memory[start : start + parameter.nbytes].view(parameter.dtype)
        parameter.data = place.view(parameter.shape).copy_(parameter.data)
        start += size
