"""The KV cache's tensor: one for all layers, allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from sensorium.decoder_config import DecoderConfig
from sensorium.types import KVShape


def kv_shape(decoder: DecoderConfig, page_size: int, dtype: torch.dtype) -> KVShape:
    """What one page of this decoder holds."""
    return KVShape(
        num_layers=decoder.num_layers,
        num_kv_heads=decoder.num_kv_heads,
        head_size=decoder.head_size,
        page_size=page_size,
        dtype_bytes=dtype.itemsize,
    )


def allocate_kv_cache(
    shape: KVShape, num_pages: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Zeros of shape (num_layers, 2, num_pages, page_size, num_kv_heads, head_size)."""
    return torch.zeros(
        (shape.num_layers, 2, num_pages, shape.page_size, shape.num_kv_heads, shape.head_size),
        dtype=dtype,
        device=device,
    )
