"""The extension's smaller ops against plain torch, their contracts, and their fakes."""

from __future__ import annotations

import pytest
import torch
from extension_cases import PLACES, TOLERANCE, at_level, cpu_levels, require
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sensorium.ops import (
    PagedAttention,
    ReferenceAttention,
    add_rms_norm,
    extension,
    linear,
    rms_norm,
    silu_mul,
)
from sensorium.ops.fakes import FAKES

PAGED = PagedAttention()
BOTH = pytest.mark.parametrize(("device", "dtype"), PLACES)
ROWS = st.sampled_from([0, 1, 2, 5, 17, 130])
WIDTHS = st.sampled_from([1, 7, 8, 64, 100, 576, 2048])


@pytest.fixture(autouse=True)
def _best_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)


def random(*shape: int, dtype: torch.dtype, device: str, seed: int) -> Tensor:
    """Normal numbers in a tensor with a stride between its rows."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(*shape[:-1], shape[-1] + 8, generator=generator)
    return wide.to(device, dtype)[..., : shape[-1]]


def called(device: str, op: str) -> int:
    return extension.CALLS[f"{device}.{op}"]


def near(out: Tensor, wanted: Tensor) -> None:
    """Within the dtype's tolerance."""
    tolerance = TOLERANCE[out.dtype]
    torch.testing.assert_close(out.double(), wanted.double(), rtol=tolerance, atol=tolerance)


@BOTH
@settings(max_examples=25, deadline=None)
@given(rows=ROWS, width=WIDTHS, seed=st.integers(0, 2**31))
def test_norms_equal_plain_torch(
    device: str, dtype: torch.dtype, rows: int, width: int, seed: int
) -> None:
    require(device, dtype)
    x = random(rows, width, dtype=dtype, device=device, seed=seed)
    residual = random(rows, width, dtype=dtype, device=device, seed=seed + 1).contiguous()
    weight = random(1, width, dtype=dtype, device=device, seed=seed + 2)[0].contiguous()
    before = called(device, "rms_norm"), called(device, "add_rms_norm")
    near(rms_norm(x, weight, 1e-6), rms_norm(x.double(), weight.double(), 1e-6))
    total = x + residual
    normed, stream = add_rms_norm(x, residual.clone(), weight, 1e-6)
    assert torch.equal(stream, total)
    near(normed, rms_norm(total.double(), weight.double(), 1e-6))
    assert (called(device, "rms_norm"), called(device, "add_rms_norm")) == (
        before[0] + 1,
        before[1] + 1,
    )


@BOTH
@settings(max_examples=25, deadline=None)
@given(
    rows=ROWS,
    width=WIDTHS,
    form=st.sampled_from([(False, 0.0), (True, 0.0), (True, 1.0)]),
    seed=st.integers(0, 2**31),
)
def test_norms_of_heads_and_other_forms_equal_plain_torch(
    device: str, dtype: torch.dtype, rows: int, width: int, form: tuple[bool, float], seed: int
) -> None:
    require(device, dtype)
    wide, offset = form
    heads = random(rows, 3, width, dtype=dtype, device=device, seed=seed)
    residual = random(rows, width, dtype=dtype, device=device, seed=seed + 1).contiguous()
    weight = random(1, width, dtype=dtype, device=device, seed=seed + 2)[0].contiguous()

    def wanted(x: Tensor) -> Tensor:
        scaled = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * (weight.double() + offset)

    before = called(device, "rms_norm"), called(device, "add_rms_norm")
    near(rms_norm(heads, weight, 1e-6, wide=wide, offset=offset), wanted(heads))
    total = heads[:, 1] + residual
    normed, stream = add_rms_norm(
        heads[:, 1], residual.clone(), weight, 1e-6, wide=wide, offset=offset
    )
    assert torch.equal(stream, total)
    near(normed, wanted(total))
    assert (called(device, "rms_norm"), called(device, "add_rms_norm")) == (
        before[0] + 1,
        before[1] + 1,
    )


@BOTH
@settings(max_examples=25, deadline=None)
@given(rows=ROWS, width=WIDTHS, seed=st.integers(0, 2**31))
def test_the_gate_equals_plain_torch(
    device: str, dtype: torch.dtype, rows: int, width: int, seed: int
) -> None:
    require(device, dtype)
    x = random(rows, 2 * width, dtype=dtype, device=device, seed=seed) * 4
    x = x if x.stride(-1) == 1 else x.contiguous()
    gate, up = x.double().chunk(2, dim=-1)
    before = called(device, "silu_mul")
    near(silu_mul(x), F.silu(gate) * up)
    assert called(device, "silu_mul") == before + 1


@BOTH
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.sampled_from([0, 1, 3, 40]),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    sizes=st.sampled_from([(2, 2), (6, 4), (64, 64), (80, 80), (128, 32), (128, 128), (256, 64)]),
    seed=st.integers(0, 2**31),
)
def test_rope_and_store_equal_plain_torch(
    device: str,
    dtype: torch.dtype,
    tokens: int,
    heads: tuple[int, int],
    sizes: tuple[int, int],
    seed: int,
) -> None:
    require(device, dtype)
    head_size, rotary_size = sizes
    q = random(tokens, heads[0], head_size, dtype=dtype, device=device, seed=seed)
    k = random(tokens, heads[1], head_size, dtype=dtype, device=device, seed=seed + 1)
    v = random(tokens, heads[1], head_size, dtype=dtype, device=device, seed=seed + 2)
    angles = random(tokens, rotary_size // 2, dtype=torch.float32, device=device, seed=seed + 3)
    cos, sin = angles.cos().to(dtype).contiguous(), angles.sin().to(dtype).contiguous()
    slots = torch.randperm(96, generator=torch.Generator().manual_seed(seed))[:tokens].to(device)
    kv = torch.full((2, 6, 16, heads[1], head_size), 7.0, dtype=dtype, device=device)
    wanted_kv = kv.double()
    wanted_q = ReferenceAttention().rope_store_kv(
        q.double(), k.double(), v.double(), cos.double(), sin.double(), wanted_kv, slots
    )
    stored = kv.clone()
    near(PAGED.rope_store_kv(q.clone(), k, v, cos, sin, kv, slots), wanted_q)
    near(kv, wanted_kv)
    PAGED.store_kv(k, v, stored, slots)
    ReferenceAttention().store_kv(k, v, kv, slots)
    assert torch.equal(stored, kv)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 16),
    shape=st.sampled_from([(1, 1), (5, 7), (64, 48), (100, 576), (96, 1536), (33, 1030)]),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_of_few_rows_equal_plain_torch(
    dtype: torch.dtype, rows: int, shape: tuple[int, int], bias: bool, seed: int
) -> None:
    require("cpu", dtype)
    x = random(rows, shape[1], dtype=dtype, device="cpu", seed=seed)
    weight = random(*shape, dtype=dtype, device="cpu", seed=seed + 1) * shape[1] ** -0.5
    offset = random(1, shape[0], dtype=dtype, device="cpu", seed=seed + 2)[0].contiguous()
    given_bias = offset if bias else None
    wanted = F.linear(x.double(), weight.double(), offset.double() if bias else None)
    near(torch.ops.sensorium.linear(x, weight, given_bias), wanted)
    near(linear(x, weight, given_bias), wanted)


@pytest.mark.parametrize("level", cpu_levels())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_instruction_set_agrees(level: str, dtype: torch.dtype) -> None:
    for _ in at_level(level):
        for width in (7, 100, 576):
            x = random(5, 2 * width, dtype=dtype, device="cpu", seed=width)
            weight = random(1, 2 * width, dtype=dtype, device="cpu", seed=1)[0].contiguous()
            near(rms_norm(x, weight, 1e-6), rms_norm(x.double(), weight.double(), 1e-6))
            near(silu_mul(x), F.silu(x.double()[:, :width]) * x.double()[:, width:])
            matrix = random(40, 2 * width, dtype=dtype, device="cpu", seed=2) * width**-0.5
            for rows in (1, 2, 3, 5):
                out = torch.ops.sensorium.linear(x[:rows], matrix, None)
                near(out, F.linear(x[:rows].double(), matrix.double()))


@pytest.mark.parametrize(("device", "dtype"), [PLACES[0], PLACES[2]])
def test_contracts_name_the_argument(device: str, dtype: torch.dtype) -> None:
    require(device, dtype)
    ops = torch.ops.sensorium

    def new(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    start, lens, table = (new(*s, dtype=torch.int32) for s in ((3,), (2,), (2, 4)))
    q, kv = new(2, 4, 64), new(2, 9, 16, 2, 64)
    numbers = (1, 64, 0.1, 0, 0.0)

    def refused(words: str, op: str, *args: object) -> None:
        with pytest.raises(RuntimeError, match=rf"sensorium::{op}: {words}"):
            getattr(ops, op)(*args)

    attend = "paged_attention"
    refused("q has 2 dim", attend, q[0], kv, start, lens, table, None, *numbers)
    refused("q has dtype float64", attend, q.double(), kv, start, lens, table, None, *numbers)
    refused(
        "q has stride", attend, new(2, 4, 128)[..., ::2], kv, start, lens, table, None, *numbers
    )
    refused("kv has dtype", attend, q, kv.double(), start, lens, table, None, *numbers)
    refused("kv has size 32", attend, q, new(2, 9, 16, 2, 32), start, lens, table, None, *numbers)
    refused("kv has 3 key", attend, q, new(2, 9, 16, 3, 64), start, lens, table, None, *numbers)
    refused("kv has stride", attend, q, kv.transpose(1, 2), start, lens, table, None, *numbers)
    refused("query_start has size 2", attend, q, kv, start[:2], lens, table, None, *numbers)
    refused("seq_lens has dtype int64", attend, q, kv, start, lens.long(), table, None, *numbers)
    refused("page_table has size 1", attend, q, kv, start, lens, table[:1], None, *numbers)
    refused("reach has size 1", attend, q, kv, start, lens, table, start[:2, None], *numbers)
    refused("max_seq_len is 65", attend, q, kv, start, lens, table, None, 1, 65, 0.1, 0, 0.0)
    refused("max_query_len is 65", attend, q, kv, start, lens, table, None, 65, 64, 0.1, 0, 0.0)
    refused("window is -1", attend, q, kv, start, lens, table, None, 1, 64, 0.1, -1, 0.0)
    many = (2**31, 2**32 + 1)
    for window in many:
        refused("window is", attend, q, kv, start, lens, table, None, 1, 64, 0.1, window, 0.0)
    # A batch of nothing has room for any number of tokens.
    nothing = (q[:0], kv, start[:1], lens[:0], new(0, 2**30, dtype=torch.int32), None)
    for length in many:
        refused("max_seq_len is", attend, *nothing, 0, length, 0.1, 0, 0.0)
        refused("max_query_len is", attend, *nothing, length, length, 0.1, 0, 0.0)
        refused("max_len is", "varlen_attention", q, q, q, start, length, 0.1, False)
    refused("soft_cap is -1", attend, q, kv, start, lens, table, None, 1, 64, 0.1, 0, -1.0)
    refused("k has size 1", "varlen_attention", q, q[:1], q, start, 1, 0.1, False)
    refused("max_len is 3", "varlen_attention", q, q, q, start, 3, 0.1, False)
    slots, k = new(2, dtype=torch.int64), new(2, 2, 64)
    refused("v has size 1", "store_kv", k, k[:1], kv, slots)
    refused("slot_mapping has dtype int32", "store_kv", k, k, kv, slots.int())
    refused("cos turns 66", "rope_store_kv", q, k, k, new(2, 33), new(2, 33), kv, slots)
    refused("sin has size 16", "rope_store_kv", q, k, k, new(2, 32), new(2, 16), kv, slots)
    refused("weight has size 3", "rms_norm", new(2, 4), new(3), 1e-6)
    refused("offset is 1; it must be 0", "rms_norm", new(2, 4), new(4), 1e-6, False, 1.0)
    refused("x has 4 dimensions", "rms_norm", new(1, 2, 3, 4), new(4), 1e-6)
    refused("residual has size 1", "add_rms_norm", new(2, 4), new(1, 4), new(4), 1e-6)
    refused("x has 3 columns", "silu_mul", new(2, 3))


def test_what_a_batch_points_at_is_checked_on_the_cpu() -> None:
    require("cpu", torch.float32)
    ops = torch.ops.sensorium
    kv, k = torch.zeros(2, 3, 4, 1, 8), torch.zeros(1, 1, 8)
    with pytest.raises(RuntimeError, match="slot_mapping holds 12; the cache has 12 slots"):
        ops.store_kv(k, k, kv, torch.tensor([12]))

    def attend(start: list[int], lens: list[int], table: list[list[int]]) -> None:
        given = (torch.tensor(x, dtype=torch.int32) for x in (start, lens, table))
        ops.paged_attention(torch.zeros(1, 1, 8), kv, *given, None, 1, 8, 0.1, 0, 0.0)

    attend([0, 1], [5], [[0, 2]])
    with pytest.raises(RuntimeError, match="page_table holds 3; the cache has 3 pages"):
        attend([0, 1], [5], [[0, 3]])
    with pytest.raises(RuntimeError, match="seq_lens holds 9; allowed are 0 to 8"):
        attend([0, 1], [9], [[0, 1]])
    with pytest.raises(RuntimeError, match="query_start"):
        attend([0, 2], [5], [[0, 1]])


def test_fakes_have_the_shapes_of_the_ops() -> None:
    require("cpu", torch.float32)
    ops = torch.ops.sensorium
    x, weight = torch.randn(3, 8), torch.randn(8)
    k, kv, slots = torch.randn(3, 1, 8), torch.zeros(2, 1, 16, 1, 8), torch.arange(3)
    at, table = torch.tensor([0, 3], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    lens, half = torch.tensor([3], dtype=torch.int32), torch.randn(3, 4)
    calls = {
        "paged_attention": (k, kv, at, lens, table, None, 3, 3, 0.1, 0, 0.0),
        "varlen_attention": (k, k, k, at, 3, 0.1, False),
        "store_kv": (k, k, kv, slots),
        "rope_store_kv": (k, k, k, half, half, kv, slots),
        "rms_norm": (x, weight, 1e-6),
        "add_rms_norm": (x, x.clone(), weight, 1e-6),
        "silu_mul": (x,),
        "linear": (x, torch.randn(5, 8), None),
    }
    assert calls.keys() == FAKES.keys()
    for name, args in calls.items():
        real = getattr(ops, name)(*args)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            given = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]
            fake = getattr(ops, name)(*given)
        assert (fake is None) == (real is None)
        if real is not None:
            assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
