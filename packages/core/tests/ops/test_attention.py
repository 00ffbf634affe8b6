"""The reference backend against softmax attention written out query by query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.ops import (
    AttentionBatch,
    AttentionSpec,
    ReferenceAttention,
    Segments,
    varlen_attention,
)
from sensorium.ops import reference as reference_module

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

    def check(self, tolerance: float = 1e-5) -> None:
        out = ReferenceAttention().paged_attention(self.q, self.kv, self.batch, self.spec)
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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(lengths(), max_size=5),
    st.sampled_from([1, 4, 5]),
    st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 3)]),
    st.sampled_from([None, 1, 3, 7]),
    st.sampled_from([None, 2.0, 30.0]),
    st.integers(0, 2**32 - 1),
)
def test_paged_attention_is_softmax_attention(
    batch: list[tuple[int, int]],
    page_size: int,
    heads: tuple[int, int],
    window: int | None,
    soft_cap: float | None,
    seed: int,
) -> None:
    spec = AttentionSpec(0.3, window, soft_cap)
    Case(batch, spec, page_size=page_size, kv_heads=heads[0], group=heads[1], seed=seed).check()


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([None, 2]), st.integers(0, 2**32 - 1))
def test_tokens_of_a_range_see_each_other(
    data: st.DataObject, window: int | None, seed: int
) -> None:
    batch = data.draw(st.lists(lengths(), min_size=1, max_size=4))
    ranges = []
    for _, total in batch:
        start = data.draw(st.integers(0, total))
        stop = data.draw(st.integers(start, total))
        ranges.append(
            data.draw(st.sampled_from([(), ((start, stop),), ((0, start), (start, stop))]))
        )
    Case(batch, AttentionSpec(0.3, window, non_causal=True), ranges=ranges, seed=seed).check()


def test_memory_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_module, "MAX_SCORES", 60)
    monkeypatch.setattr(reference_module, "MAX_GATHERED", 12)
    batch = [(1, 4), (7, 9), (1, 11), (1, 1), (1, 30), (20, 20)]
    Case(batch, AttentionSpec(0.3, window=5)).check()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_half_precision_rounds_only_the_result(dtype: torch.dtype, tolerance: float) -> None:
    Case([(5, 9), (1, 17), (1, 3)], AttentionSpec(0.3), dtype=dtype).check(tolerance)


@pytest.mark.gpu
def test_paged_attention_on_cuda() -> None:
    batch = [(5, 9), (1, 17), (1, 3), (8, 8)]
    Case(batch, AttentionSpec(0.3, window=6, soft_cap=5.0), device="cuda").check()


def test_new_keys_and_values_go_to_their_slots() -> None:
    case = Case([(2, 3), (1, 6)], AttentionSpec(1.0))
    k = torch.arange(3.0)[:, None, None].expand(3, 2, 6)
    before = case.kv.clone()
    ReferenceAttention().store_kv(k, -k, case.kv, case.batch.slot_mapping)
    flat, flat_before = case.kv.flatten(1, 2), before.flatten(1, 2)
    for i, slot in enumerate(case.batch.slot_mapping.tolist()):
        assert torch.equal(flat[0, slot], k[i])
        assert torch.equal(flat[1, slot], -k[i])
        flat_before[:, slot] = flat[:, slot]
    torch.testing.assert_close(flat, flat_before, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 3, 3, 8]), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([None, 0.7]),
    st.booleans(),
)
def test_varlen_attention_stays_inside_sequences(
    sizes: list[int], causal: bool, scale: float | None, made_once: bool
) -> None:
    rng = np.random.default_rng(0)
    borders = np.cumsum([0, *sizes])
    q = rng.normal(size=(borders[-1], 4, 6))
    k, v = rng.normal(size=(2, borders[-1], 2, 6))
    sequence = np.repeat(np.arange(len(sizes)), sizes)
    spec = AttentionSpec(6**-0.5 if scale is None else scale)
    expected = dense(
        q, k, v, spec, lambda i, j: sequence[i] == sequence[j] and (j <= i or not causal)
    )
    queries, keys, values = (torch.tensor(x, dtype=torch.float32) for x in (q, k, v))
    cuts = borders.tolist()
    cuts = Segments(cuts, queries.device) if made_once else cuts
    out = varlen_attention(queries, keys, values, cuts, scale=scale, causal=causal)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-5)
