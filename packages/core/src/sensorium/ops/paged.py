"""Attention by the compiled extension, on the CPU and on CUDA."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sensorium.ops import extension
from sensorium.ops.attention import AttentionBatch, AttentionLayout, AttentionSpec

#: What CUDA's kernels are compiled for; the CPU's take any.
CUDA_HEAD_SIZES = (64, 80, 96, 128, 256)
CUDA_PAGE_SIZE = 16


class PagedAttention:
    """The extension's backend."""

    name: ClassVar[str] = "paged"
    captures: ClassVar[bool] = True

    def lacks(self, spec: AttentionSpec, layout: AttentionLayout) -> str | None:
        """As ``AttentionBackend.lacks``."""
        if reason := extension.lack(layout.device, layout.dtype):
            return f"this machine or dtype: {reason}"
        if layout.device.type == "cuda" and layout.head_size not in CUDA_HEAD_SIZES:
            sizes = ", ".join(map(str, CUDA_HEAD_SIZES))
            return f"heads of size {layout.head_size} on CUDA (compiled are {sizes})"
        if layout.device.type == "cuda" and layout.page_size != CUDA_PAGE_SIZE:
            return f"pages of {layout.page_size} tokens on CUDA (compiled is {CUDA_PAGE_SIZE})"
        return None

    def store_kv(self, k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
        """As ``AttentionBackend.store_kv``."""
        extension.count(k, "store_kv")
        torch.ops.sensorium.store_kv(k, v, kv, slot_mapping)

    def rope_store_kv(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        slot_mapping: Tensor,
    ) -> Tensor:
        """As ``AttentionBackend.rope_store_kv``; turns ``q`` in place."""
        extension.count(q, "rope_store_kv")
        torch.ops.sensorium.rope_store_kv(q, k, v, cos, sin, kv, slot_mapping)
        return q

    def paged_attention(
        self, q: Tensor, kv: Tensor, batch: AttentionBatch, spec: AttentionSpec
    ) -> Tensor:
        """As ``AttentionBackend.paged_attention``."""
        extension.count(q, "paged_attention")
        out: Tensor = torch.ops.sensorium.paged_attention(
            q,
            kv,
            batch.query_start,
            batch.seq_lens,
            batch.page_table,
            batch.reach,
            batch.max_query_len,
            batch.max_seq_len,
            spec.scale,
            spec.window or 0,
            spec.soft_cap or 0.0,
        )
        return out
