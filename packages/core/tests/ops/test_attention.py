"""The reference backend against softmax attention written out query by query."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_cases import Case, dense, lengths
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.ops import (
    AttentionSpec,
    ReferenceAttention,
    Segments,
    varlen_attention,
)
from sensorium.ops import reference as reference_module

REFERENCE = ReferenceAttention()


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
    Case(batch, spec, page_size=page_size, kv_heads=heads[0], group=heads[1], seed=seed).check(
        ReferenceAttention()
    )


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
    Case(batch, AttentionSpec(0.3, window, non_causal=True), ranges=ranges, seed=seed).check(
        ReferenceAttention()
    )


def test_memory_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_module, "MAX_SCORES", 60)
    monkeypatch.setattr(reference_module, "MAX_GATHERED", 12)
    batch = [(1, 4), (7, 9), (1, 11), (1, 1), (1, 30), (20, 20)]
    Case(batch, AttentionSpec(0.3, window=5)).check(REFERENCE)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_half_precision_rounds_only_the_result(dtype: torch.dtype, tolerance: float) -> None:
    Case([(5, 9), (1, 17), (1, 3)], AttentionSpec(0.3), dtype=dtype).check(
        ReferenceAttention(), tolerance
    )


@pytest.mark.gpu
def test_paged_attention_on_cuda() -> None:
    batch = [(5, 9), (1, 17), (1, 3), (8, 8)]
    Case(batch, AttentionSpec(0.3, window=6, soft_cap=5.0), device="cuda").check(
        ReferenceAttention()
    )


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
