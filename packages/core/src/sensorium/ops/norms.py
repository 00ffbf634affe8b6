"""Normalisation: what each row's scale is; by the extension where it serves the tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from sensorium.ops import extension


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation (Zhang and Sennrich 2019): x / rms(x) · weight.

    The mean is taken in float32 whatever the dtype, and the scaled row is rounded to the
    input's dtype before it is multiplied by the weight, as the published models do.

    Args:
        x: (..., size).
        weight: (size,).
        eps: added to the mean of squares.

    Returns:
        (..., size) in ``x``'s dtype.
    """
    if x.dim() == 2 and x.stride(-1) == 1 and weight.dtype == x.dtype and extension.serves(x):
        extension.count(x, "rms_norm")
        out: Tensor = torch.ops.sensorium.rms_norm(x, weight, eps)
        return out
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream and its norm in one pass.

    Args:
        x: (N, size), a layer's output.
        residual: (N, size), the stream; it may be changed in place.
        weight, eps: as for ``rms_norm``.

    Returns:
        ``rms_norm(x + residual)``, and x + residual.
    """
    if residual.is_contiguous() and x.stride(-1) == 1 and extension.serves(x):
        extension.count(x, "add_rms_norm")
        return torch.ops.sensorium.add_rms_norm(x, residual, weight, eps), residual
    residual = x + residual
    return rms_norm(residual, weight, eps), residual
