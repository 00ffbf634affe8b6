"""Batches over pages in random order, with the reference's answer, for the compiled attention."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sensorium.ops import AttentionBatch, AttentionSpec, ReferenceAttention


def random_batch(
    rng: np.random.Generator,
    batch: list[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    head_size: int,
    dtype: torch.dtype,
    device: str,
    page_size: int = 16,
    reach: bool = False,
) -> tuple[Tensor, Tensor, AttentionBatch]:
    """Queries, a cache whose unused slots hold NaN, and the batch; queries with a stride."""
    num_pages = [-(-total // page_size) for _, total in batch]
    order = rng.permutation(sum(num_pages) + 3).astype(np.int32)
    table = np.zeros((len(batch), max(num_pages) + 2), dtype=np.int32)
    kv = torch.full((2, len(order), page_size, kv_heads, head_size), float("nan"))
    used, reaches = 0, []
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    for b, (query_len, total) in enumerate(batch):
        pages = order[used : used + num_pages[b]]
        used += num_pages[b]
        table[b, : len(pages)] = pages
        index = torch.arange(total)
        at = torch.from_numpy(pages.astype(np.int64))
        kv[:, at[index // page_size], index % page_size] = torch.randn(
            2, total, kv_heads, head_size, generator=generator
        )
        start = int(rng.integers(0, total)) if total else 0
        stop = int(rng.integers(start, total)) if total else 0
        for i in range(total - query_len, total):
            reaches.append((start, stop) if start <= i < stop else (i, i + 1))
    n = sum(query for query, _ in batch)
    wide = torch.randn(n, heads + 2 * kv_heads, head_size, generator=generator)
    q = wide.to(device, dtype)[:, :heads]
    return (
        q,
        kv.to(device, dtype),
        AttentionBatch(
            query_start=torch.tensor(
                np.cumsum([0, *(query for query, _ in batch)]), dtype=torch.int32, device=device
            ),
            seq_lens=torch.tensor([t for _, t in batch], dtype=torch.int32, device=device),
            page_table=torch.from_numpy(table).to(device),
            slot_mapping=torch.zeros(n, dtype=torch.int64, device=device),
            max_query_len=max(query for query, _ in batch),
            max_seq_len=max(total for _, total in batch),
            lengths=tuple(batch),
            reach=torch.tensor(reaches, dtype=torch.int32, device=device).reshape(-1, 2)
            if reach
            else None,
        ),
    )


def expected(q: Tensor, kv: Tensor, batch: AttentionBatch, spec: AttentionSpec) -> Tensor:
    """The reference on the same numbers in float64."""
    return ReferenceAttention().paged_attention(q.double(), kv.double(), batch, spec)
