"""Matrix products on the CPU where the extension's are faster than torch's."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import extension

#: Rows up to which the extension's product is the faster one (``benchmarks/kernels.py``): in
#: bfloat16 as many as a step may hold, at every level of instructions.
MAX_ROWS = {torch.float32: 16, torch.bfloat16: 16384}
#: The same where the processor has matrix tiles (AMX), which torch uses and the extension doesn't:
#: while a product waits for its weights and not for the multiplication. Not measured.
MAX_ROWS_BESIDE_TILES = 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias.

    Args:
        x: (..., in_size).
        weight: (out_size, in_size).
        bias: (out_size,) or None.

    Returns:
        (..., out_size).
    """
    if _is_faster(x, weight) and extension.serves(x):
        extension.count(x, "linear")
        out: Tensor = torch.ops.sensorium.linear(x, weight, bias)
        return out
    return F.linear(x, weight, bias)


def _is_faster(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dim() == 2
        and 0 < len(x) <= max_rows(x.dtype)
        and x.stride(-1) == 1
        and weight.dtype == x.dtype
        and weight.stride(-1) == 1
    )


@functools.cache
def max_rows(dtype: torch.dtype) -> int:
    """Rows up to which the extension's product is used on this machine."""
    # torch 2.10 does not say yet what the processor has.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    most = MAX_ROWS.get(dtype, 0)
    return min(most, MAX_ROWS_BESIDE_TILES) if capabilities.get("amx_bf16") else most
