"""The extension's attention against softmax attention written out, and against the reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from attention_cases import Case, lengths
from extension_cases import (
    PLACES,
    TOLERANCE,
    at_level,
    close,
    cpu_levels,
    general_cuda_kernels,
    require,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_batches import expected, random_batch

from sensorium.ops import (
    AttentionBatch,
    AttentionSpec,
    PagedAttention,
    Segments,
    extension,
    varlen_attention,
)

PAGED = PagedAttention()
CPU = [place for place in PLACES if place.values[0] == "cpu"]


@pytest.fixture(params=cpu_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn."""
    with at_level(request.param):
        yield request.param


@pytest.mark.parametrize(("device", "dtype"), CPU)
@settings(max_examples=60, deadline=None)
@given(
    batch=st.lists(lengths(), max_size=5),
    page_size=st.sampled_from([1, 4, 5, 16]),
    heads=st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 3), (1, 17)]),
    head_size=st.sampled_from([1, 6, 64, 72, 80, 128]),
    window=st.sampled_from([None, 1, 3, 7]),
    soft_cap=st.sampled_from([None, 2.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_small_batches_are_softmax_attention(
    device: str,
    dtype: torch.dtype,
    batch: list[tuple[int, int]],
    page_size: int,
    heads: tuple[int, int],
    head_size: int,
    window: int | None,
    soft_cap: float | None,
    seed: int,
) -> None:
    require(device, dtype)
    case = Case(
        batch,
        AttentionSpec(head_size**-0.5, window, soft_cap),
        page_size=page_size,
        kv_heads=heads[0],
        group=heads[1],
        head_size=head_size,
        seed=seed,
        dtype=dtype,
    )
    case.check(PAGED, TOLERANCE[dtype])


@pytest.mark.parametrize(("device", "dtype"), CPU)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), window=st.sampled_from([None, 2]), seed=st.integers(0, 2**32 - 1))
def test_tokens_of_a_range_see_each_other(
    device: str, dtype: torch.dtype, data: st.DataObject, window: int | None, seed: int
) -> None:
    require(device, dtype)
    batch = data.draw(st.lists(lengths(), min_size=1, max_size=4))
    ranges = []
    for _, total in batch:
        start = data.draw(st.integers(0, total))
        stop = data.draw(st.integers(start, total))
        ranges.append(
            data.draw(st.sampled_from([(), ((start, stop),), ((0, start), (start, stop))]))
        )
    spec = AttentionSpec(0.3, window, non_causal=True)
    Case(batch, spec, ranges=ranges, seed=seed, dtype=dtype).check(PAGED, TOLERANCE[dtype])


#: (query, total) around the borders of pages, of tiles, and long.
BATCHES = {
    "decode": [(1, 1), (1, 15), (1, 16), (1, 17), (1, 300), (1, 1025)],
    "prefill": [(17, 17), (1, 1), (64, 64), (65, 65), (129, 129), (300, 300)],
    "extend": [(5, 40), (0, 33), (1, 700), (16, 16), (33, 517), (200, 513)],
    "empty": [(0, 0), (3, 3), (0, 5)],
    "long decode": [(1, 3000), (0, 12), (1, 2049)],
}
SHAPES = [(4, 4, 64), (16, 2, 128), (6, 2, 80), (24, 1, 64), (3, 1, 96), (4, 2, 256)]
#: Alone and with others; test_properties.py draws the rest.
SPECS = {
    "all": (None, None, False),
    "window": (70, None, False),
    "everything": (33, 20.0, True),
}


@pytest.mark.parametrize(("device", "dtype"), PLACES)
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_long_batches_equal_the_reference(
    device: str, dtype: torch.dtype, kind: str, shape: tuple[int, int, int]
) -> None:
    require(device, dtype)
    window, soft_cap, reach = SPECS[kind]
    heads, kv_heads, head_size = shape
    rng = np.random.default_rng([len(kind), *shape])
    spec = AttentionSpec(head_size**-0.5, window, soft_cap, reach)
    for lens in BATCHES.values():
        q, kv, batch = random_batch(
            rng,
            lens,
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            dtype=dtype,
            device=device,
            reach=reach,
        )
        out = PAGED.paged_attention(q, kv, batch, spec)
        close(out, expected(q, kv, batch, spec), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", SPECS)
def test_kernels_for_every_gpu_agree(kind: str, shape: tuple[int, int, int]) -> None:
    with general_cuda_kernels():
        test_long_batches_equal_the_reference("cuda", torch.bfloat16, kind, shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_instruction_set_agrees(level: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(3)
    spec = AttentionSpec(0.1, 90, 20.0, non_causal=True)
    shape = {"heads": 6, "kv_heads": 2, "head_size": 80, "page_size": 5}
    for lens in BATCHES.values():
        q, kv, batch = random_batch(rng, lens, **shape, dtype=dtype, device="cpu", reach=True)  # type: ignore[arg-type]
        close(PAGED.paged_attention(q, kv, batch, spec), expected(q, kv, batch, spec), dtype)


@pytest.mark.parametrize(("device", "dtype"), PLACES)
@pytest.mark.parametrize("head_size", [24, 64, 72, 80, 96, 128, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_sequences_side_by_side_equal_the_reference(
    device: str, dtype: torch.dtype, head_size: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(device, dtype)
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)
    borders = np.cumsum([0, 1, 64, 0, 63, 130, 257, 16]).tolist()
    generator = torch.Generator().manual_seed(head_size)
    wide = torch.randn(borders[-1], 3, 4, head_size, generator=generator).to(device, dtype)
    q, k, v = wide[:, 0], wide[:, 1, :2], wide[:, 2, :2]
    before = extension.CALLS[f"{device}.varlen_attention"]
    out = varlen_attention(q, k, v, Segments(borders, q.device), causal=causal)
    assert extension.CALLS[f"{device}.varlen_attention"] == before + 1
    monkeypatch.setenv("SENSORIUM_ATTENTION", "reference")
    wanted = varlen_attention(q.double(), k.double(), v.double(), borders, causal=causal)
    close(out, wanted, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_a_captured_graph_follows_the_lengths(kind: str) -> None:
    require("cuda", torch.bfloat16)
    rng = np.random.default_rng(0)
    spec = AttentionSpec(0.1)
    query_lens = [1, 1, 1] if kind == "decode" else [40, 3, 70]
    most = [(n, 900) for n in query_lens]
    shape = {"heads": 8, "kv_heads": 2, "head_size": 128}
    q, kv, batch = random_batch(rng, most, **shape, dtype=torch.bfloat16, device="cuda")  # type: ignore[arg-type]
    PAGED.paged_attention(q, kv, batch, spec)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = PAGED.paged_attention(q, kv, batch, spec)
    for totals in ([900, 900, 900], [40, 3, 500], [77, 899, 70]):
        batch.seq_lens.copy_(torch.tensor(totals, dtype=torch.int32))
        q.copy_(torch.randn_like(q))
        out.fill_(float("nan"))
        graph.replay()
        lens = tuple(zip(query_lens, totals, strict=True))
        now = AttentionBatch(
            batch.query_start,
            batch.seq_lens,
            batch.page_table,
            batch.slot_mapping,
            max_query_len=batch.max_query_len,
            max_seq_len=max(totals),
            lengths=lens,
        )
        close(out, expected(q, kv, now, spec), torch.bfloat16)
