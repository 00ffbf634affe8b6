"""What holds of the extension's ops for any batch, and what torch asks of every custom op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from extension_cases import PLACES, close, compiled, require
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_batches import expected, random_batch
from torch import Tensor

from sensorium.ops import AttentionSpec, PagedAttention, Segments, extension, varlen_attention
from sensorium.ops.fakes import FAKES

BOTH = pytest.mark.parametrize(("device", "dtype"), PLACES)
#: Around the borders of pages and of the kernels' tiles of 64 and 128, and anywhere.
LENGTH = st.sampled_from([0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129]) | st.integers(0, 400)
#: (query heads, key heads) and their size; on CUDA those that its kernels are compiled for.
HEADS = st.sampled_from([(1, 1), (4, 4), (6, 2), (16, 2), (7, 1), (24, 1), (9, 3)])
SIZES = st.sampled_from([64, 80, 96, 128, 256])


@BOTH
@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.tuples(LENGTH, LENGTH).map(sorted), min_size=1, max_size=6),
    decode=st.booleans(),
    heads=HEADS,
    head_size=SIZES,
    window=st.sampled_from([None, 1, 16, 50, 200]),
    soft_cap=st.sampled_from([None, 2.0, 30.0]),
    reach=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_paged_batch_equals_the_reference(
    device: str,
    dtype: torch.dtype,
    lengths: list[list[int]],
    decode: bool,
    heads: tuple[int, int],
    head_size: int,
    window: int | None,
    soft_cap: float | None,
    reach: bool,
    seed: int,
) -> None:
    require(device, dtype)
    batch = [(min(query, 1) if decode else query, total) for query, total in lengths]
    q, kv, made = random_batch(
        np.random.default_rng(seed),
        batch,
        heads=heads[0],
        kv_heads=heads[1],
        head_size=head_size,
        dtype=dtype,
        device=device,
        reach=reach,
    )
    spec = AttentionSpec(head_size**-0.5, window, soft_cap, reach)
    before = extension.CALLS[f"{device}.paged_attention"]
    out = PagedAttention().paged_attention(q, kv, made, spec)
    assert extension.CALLS[f"{device}.paged_attention"] == before + 1
    close(out, expected(q, kv, made, spec), dtype)


@BOTH
@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(LENGTH, min_size=1, max_size=6),
    heads=HEADS,
    head_size=SIZES,
    causal=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_sequences_side_by_side_equal_the_reference(
    device: str,
    dtype: torch.dtype,
    lengths: list[int],
    heads: tuple[int, int],
    head_size: int,
    causal: bool,
    seed: int,
) -> None:
    require(device, dtype)
    borders = np.cumsum([0, *lengths]).tolist()
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(borders[-1], heads[0] + 2 * heads[1], head_size, generator=generator)
    q, k, v = wide.to(device, dtype).split([heads[0], heads[1], heads[1]], dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SENSORIUM_ATTENTION", raising=False)
        before = extension.CALLS[f"{device}.varlen_attention"]
        out = varlen_attention(q, k, v, Segments(borders, q.device), causal=causal)
        assert extension.CALLS[f"{device}.varlen_attention"] == before + 1
        patch.setenv("SENSORIUM_ATTENTION", "reference")
        wanted = varlen_attention(q.double(), k.double(), v.double(), borders, causal=causal)
    close(out, wanted, dtype)


@pytest.mark.parametrize(
    ("op", "device", "dtype"),
    [
        pytest.param(op, *place.values, id=f"{op}-{place.id}", marks=place.marks)
        for op in FAKES
        for place in PLACES
        if compiled(op, place.values[0])
    ],
)
def test_ops_are_what_torch_asks_of_them(op: str, device: str, dtype: torch.dtype) -> None:
    """The schema's word on what is written, and tracing with and without known sizes."""
    require(device, dtype)

    def new(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    def whole(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    generator = torch.Generator().manual_seed(0)
    k, kv, x, weight = new(3, 1, 64), new(2, 1, 16, 1, 64), new(3, 64), new(64)
    borders, slots, half = whole([0, 3]), torch.arange(3, device=device), new(3, 32)
    calls = {
        "paged_attention": (k, kv, borders, whole([3]), whole([0])[None], None, 3, 3, 0.1, 0, 0.0),
        "varlen_attention": (k, k, k, borders, 3, 0.1, False),
        "store_kv": (k, k, kv, slots),
        "rope_store_kv": (k, k, k, half, half, kv, slots),
        "rope": (k, half.float(), half.float()),
        "rms_norm": (x, weight, 1e-6),
        "add_rms_norm": (x, x.clone(), weight, 1e-6),
        "silu_mul": (x,),
        "linear": (x, new(5, 64), None),
        "log_spectra": (new(40).float(), new(8).double(), new(5, 3).float().abs(), 4, 1e-10),
    }
    torch.library.opcheck(
        getattr(torch.ops.sensorium, op).default,
        calls[op],
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )
