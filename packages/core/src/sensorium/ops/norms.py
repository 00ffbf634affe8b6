"""Normalisation: what each row's scale is, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


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
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)
