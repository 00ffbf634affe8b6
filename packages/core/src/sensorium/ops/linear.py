"""Matrix products of few rows on the CPU, where torch's own are slower than memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import extension

#: Rows up to which the extension's product is used, by dtype (``benchmarks/kernels.py``).
MAX_ROWS = {torch.float32: 4, torch.bfloat16: 7}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias.

    Args:
        x: (..., in_size).
        weight: (out_size, in_size).
        bias: (out_size,) or None.

    Returns:
        (..., out_size).
    """
    if _few_rows(x, weight) and extension.serves(x):
        extension.count(x, "linear")
        out: Tensor = torch.ops.sensorium.linear(x, weight, bias)
        return out
    return F.linear(x, weight, bias)


def _few_rows(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dim() == 2
        and 0 < len(x) <= MAX_ROWS.get(x.dtype, 0)
        and x.stride(-1) == 1
        and weight.dtype == x.dtype
        and weight.stride(-1) == 1
    )
