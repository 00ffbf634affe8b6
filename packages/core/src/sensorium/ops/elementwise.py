"""RMS normalisation and the gate of an MLP, by the extension where it supports the tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import extension


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, wide: bool = False, offset: float = 0.0
) -> Tensor:
    """Root-mean-square normalisation (Zhang and Sennrich 2019): x / rms(x) · weight.

    The mean is taken in float32 whatever the dtype. Published models then differ in one rounding:
    Llama's kind rounds the scaled row to the input's dtype before it is multiplied by the weight,
    others (``wide``) multiply in float32 and round once.

    Args:
        x: (..., size).
        weight: (size,).
        eps: added to the mean of squares.
        wide: whether the product is in float32.
        offset: added to the weight in float32, where ``wide`` (Gemma's weights are kept less 1).

    Returns:
        (..., size) in ``x``'s dtype.
    """
    if x.dim() in (2, 3) and _dense(x) and weight.dtype == x.dtype and extension.serves(x):
        extension.count(x, "rms_norm")
        out: Tensor = torch.ops.sensorium.rms_norm(x, weight, eps, wide, offset)
        return out
    assert wide or not offset, "an offset is added to the weight in float32"
    scaled = x.float()
    scaled = scaled * torch.rsqrt(scaled.pow(2).mean(-1, keepdim=True) + eps)
    if wide:
        return (scaled * (offset + weight.float())).to(x.dtype)
    return weight * scaled.to(x.dtype)


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    *,
    wide: bool = False,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The residual stream and its norm in one pass.

    Args:
        x: (N, size), a layer's output.
        residual: (N, size), the stream; it may be changed in place.
        weight, eps, wide, offset: as for ``rms_norm``.

    Returns:
        ``rms_norm(x + residual)``, and x + residual.
    """
    if residual.is_contiguous() and _dense(x) and extension.serves(x):
        extension.count(x, "add_rms_norm")
        normed = torch.ops.sensorium.add_rms_norm(x, residual, weight, eps, wide, offset)
        return normed, residual
    residual = x + residual
    return rms_norm(residual, weight, eps, wide=wide, offset=offset), residual


def _dense(x: Tensor) -> bool:
    return x.stride(-1) == 1


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
