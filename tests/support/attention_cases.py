"""Attention cases for every backend: a batch, a cache full of NaN elsewhere, and the answer.

The answer is softmax attention written out in float64, query by query and head by head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from sensorium.ops import AttentionBackend, AttentionBatch, AttentionSpec

Array = np.ndarray[Any, np.dtype[np.float64]]


def dense(q: Array, k: Array, v: Array, spec: AttentionSpec, sees: Any) -> Array:
    """One query and one head at a time; ``sees(i, j)``: whether query i sees key j."""
    out = np.zeros_like(q)
    group = q.shape[1] // k.shape[1]
    for i in range(len(q)):
        keys = [j for j in range(len(k)) if sees(i, j)]
        for head in range(q.shape[1]):
            scores = k[keys, head // group] @ q[i, head] * spec.scale
            if spec.soft_cap is not None:
                scores = spec.soft_cap * np.tanh(scores / spec.soft_cap)
            weights = np.exp(scores - scores.max())
            out[i, head] = weights / weights.sum() @ v[keys, head // group]
    return out


class Case:
    """A batch over a cache whose unused slots hold NaN, with its answer in float64."""

    def __init__(
        self,
        lengths: list[tuple[int, int]],
        spec: AttentionSpec,
        *,
        page_size: int = 4,
        kv_heads: int = 2,
        group: int = 2,
        head_size: int = 6,
        ranges: list[tuple[tuple[int, int], ...]] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        rng = np.random.default_rng(seed)
        num_pages = [-(-total // page_size) for _, total in lengths]
        order = rng.permutation(sum(num_pages) + 2).astype(np.int32)
        table = np.zeros((len(lengths), max(num_pages, default=0)), dtype=np.int32)
        kv = np.full((2, len(order), page_size, kv_heads, head_size), np.nan)
        queries, answers, slots = [], [], []
        self.spec, used = spec, 0
        for b, (query_len, total) in enumerate(lengths):
            pages = order[used : used + num_pages[b]]
            used += num_pages[b]
            table[b, : len(pages)] = pages
            q = rng.normal(size=(query_len, kv_heads * group, head_size))
            k, v = rng.normal(size=(2, total, kv_heads, head_size))
            q, k, v = (self._rounded(x, dtype) for x in (q, k, v))
            index = np.arange(total)
            kv[:, pages[index // page_size], index % page_size] = np.stack([k, v])
            new = index[total - query_len :]
            slots.append(pages[new // page_size].astype(np.int64) * page_size + new % page_size)
            own = ranges[b] if ranges else ()
            first = total - query_len

            def sees(i: int, j: int, own: Any = own, first: int = first) -> bool:
                query = first + i
                near = spec.window is None or j > query - spec.window
                both = any(a <= query < z and a <= j < z for a, z in own)
                return (j <= query and near) or both

            queries.append(q)
            answers.append(dense(q, k, v, spec, sees))
        empty = np.zeros((0, kv_heads * group, head_size))
        self.answer = np.concatenate([empty, *answers])
        self.q = torch.tensor(np.concatenate([empty, *queries]), dtype=dtype, device=device)
        self.kv = torch.tensor(kv, dtype=dtype, device=device)
        self.batch = AttentionBatch(
            query_start=torch.tensor(
                np.cumsum([0, *(n for n, _ in lengths)]), dtype=torch.int32, device=device
            ),
            seq_lens=torch.tensor([t for _, t in lengths], dtype=torch.int32, device=device),
            page_table=torch.tensor(table, device=device),
            slot_mapping=torch.tensor(
                np.concatenate([np.zeros(0, np.int64), *slots]), device=device
            ),
            max_query_len=max((n for n, _ in lengths), default=0),
            max_seq_len=max((t for _, t in lengths), default=0),
            lengths=tuple(lengths),
            reach=None if ranges is None else self._reach(lengths, ranges).to(device),
        )

    @staticmethod
    def _reach(
        lengths: list[tuple[int, int]], ranges: list[tuple[tuple[int, int], ...]]
    ) -> torch.Tensor:
        rows = []
        for (query_len, total), own in zip(lengths, ranges, strict=True):
            for i in range(total - query_len, total):
                around = [r for r in own if r[0] <= i < r[1]] + [(i, i + 1)]
                rows.append((min(a for a, _ in around), max(z for _, z in around)))
        return torch.tensor(rows, dtype=torch.int32).reshape(-1, 2)

    @staticmethod
    def _rounded(values: Array, dtype: torch.dtype) -> Array:
        return np.asarray(torch.tensor(values).to(dtype).double().numpy())

    def check(self, backend: AttentionBackend, tolerance: float = 1e-5) -> None:
        out = backend.paged_attention(self.q, self.kv, self.batch, self.spec)
        assert out.dtype == self.q.dtype
        assert out.shape == self.q.shape
        np.testing.assert_allclose(
            out.double().cpu().numpy(), self.answer, rtol=tolerance, atol=tolerance
        )


@st.composite
def lengths(draw: st.DrawFn) -> tuple[int, int]:
    """(query, total): empty, one token, and around the page borders more often than by chance."""
    total = draw(st.sampled_from([1, 3, 4, 5, 8, 9]) | st.integers(1, 20))
    query = draw(st.sampled_from([0, 1, 1, total]) | st.integers(0, total))
    return query, total
