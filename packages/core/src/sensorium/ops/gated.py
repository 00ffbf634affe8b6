"""The gate of an MLP, by the extension where it supports the tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import extension


def silu_mul(x: Tensor) -> Tensor:
    """silu(gate) · up (Shazeer 2020, SwiGLU).

    Args:
        x: (N, 2 · size): gate, then up.

    Returns:
        (N, size) in ``x``'s dtype.
    """
    if x.dim() == 2 and x.stride(-1) == 1 and extension.serves(x):
        extension.count(x, "silu_mul")
        out: Tensor = torch.ops.sensorium.silu_mul(x)
        return out
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
