"""The extension's smaller ops against plain torch."""

from __future__ import annotations

import pytest
import torch
from extension_cases import PLACES, at_level, close, cpu_levels, require
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import (
    PagedAttention,
    ReferenceAttention,
    add_rms_norm,
    apply_rope,
    apply_rope_,
    extension,
    linear,
    rms_norm,
    silu_mul,
)

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


@BOTH
@settings(max_examples=25, deadline=None)
@given(
    rows=ROWS,
    width=WIDTHS,
    form=st.sampled_from([(False, 0.0), (True, 0.0), (True, 1.0)]),
    seed=st.integers(0, 2**31),
)
def test_norms_equal_plain_torch(
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
    for x in (heads, heads[:, 0]):
        close(rms_norm(x, weight, 1e-6, wide=wide, offset=offset), wanted(x), dtype)
    total = heads[:, 1] + residual
    normed, stream = add_rms_norm(
        heads[:, 1], residual.clone(), weight, 1e-6, wide=wide, offset=offset
    )
    assert torch.equal(stream, total)
    close(normed, wanted(total), dtype)
    assert (called(device, "rms_norm"), called(device, "add_rms_norm")) == (
        before[0] + 2,
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
    close(silu_mul(x), F.silu(gate) * up, dtype)
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
    close(PAGED.rope_store_kv(q.clone(), k, v, cos, sin, kv, slots), wanted_q, dtype)
    close(kv, wanted_kv, dtype)
    PAGED.store_kv(k, v, stored, slots)
    ReferenceAttention().store_kv(k, v, kv, slots)
    assert torch.equal(stored, kv)


@BOTH
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.sampled_from([0, 1, 3, 40]),
    heads=st.sampled_from([0, 1, 3, 32]),
    sizes=st.sampled_from([(2, 2), (6, 4), (64, 0), (64, 64), (80, 80), (128, 32), (72, 72)]),
    seed=st.integers(0, 2**31),
)
def test_rope_in_place_equals_plain_torch(
    device: str, dtype: torch.dtype, tokens: int, heads: int, sizes: tuple[int, int], seed: int
) -> None:
    """On a part of wider rows, whose rest stays as it is."""
    require(device, dtype)
    head_size, rotary_size = sizes
    whole = random(tokens, heads + 2, head_size, dtype=dtype, device=device, seed=seed)
    angles = random(tokens, rotary_size // 2, dtype=torch.float32, device=device, seed=seed + 1)
    cos, sin = angles.cos().contiguous(), angles.sin().contiguous()
    wanted = whole.double()
    wanted[:, 1:-1] = apply_rope(wanted[:, 1:-1], cos[:, None].double(), sin[:, None].double())
    before = called(device, "rope")
    apply_rope_(whole[:, 1:-1], cos, sin)
    assert called(device, "rope") == before + 1
    close(whole, wanted, dtype)
    assert torch.equal(whole[:, [0, -1]], wanted[:, [0, -1]].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 7, 8, 9, 16, 17, 40, 100]),
    shape=st.sampled_from([(1, 1), (5, 7), (64, 48), (100, 576), (96, 1536), (33, 1030), (17, 31)]),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_equal_plain_torch(
    dtype: torch.dtype, rows: int, shape: tuple[int, int], bias: bool, seed: int
) -> None:
    require("cpu", dtype)
    x = random(rows, shape[1], dtype=dtype, device="cpu", seed=seed)
    weight = random(*shape, dtype=dtype, device="cpu", seed=seed + 1) * shape[1] ** -0.5
    offset = random(1, shape[0], dtype=dtype, device="cpu", seed=seed + 2)[0].contiguous()
    given_bias = offset if bias else None
    wanted = F.linear(x.double(), weight.double(), offset.double() if bias else None)
    close(torch.ops.sensorium.linear(x, weight, given_bias), wanted, dtype)
    close(linear(x, weight, given_bias), wanted, dtype)


@pytest.mark.parametrize("level", cpu_levels())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_instruction_set_agrees(level: str, dtype: torch.dtype) -> None:
    with at_level(level):
        for width in (7, 100, 576):
            x = random(5, 2 * width, dtype=dtype, device="cpu", seed=width)
            weight = random(1, 2 * width, dtype=dtype, device="cpu", seed=1)[0].contiguous()
            close(rms_norm(x, weight, 1e-6), rms_norm(x.double(), weight.double(), 1e-6), dtype)
            close(silu_mul(x), F.silu(x.double()[:, :width]) * x.double()[:, width:], dtype)
            heads = random(5, 2, 2 * width, dtype=dtype, device="cpu", seed=4)
            cos, sin = torch.randn(2, 5, width)
            wanted = apply_rope(heads.double(), cos[:, None].double(), sin[:, None].double())
            apply_rope_(heads, cos, sin)
            close(heads, wanted, dtype)
            matrix = random(40, 2 * width, dtype=dtype, device="cpu", seed=2) * width**-0.5
            x = random(37, 2 * width, dtype=dtype, device="cpu", seed=3)
            for rows in (1, 2, 3, 5, 16, 37):
                out = torch.ops.sensorium.linear(x[:rows], matrix, None)
                close(out, F.linear(x[:rows].double(), matrix.double()), dtype)


@pytest.mark.parametrize("level", cpu_levels())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("num_outputs", "size"), [(37, 100), (9, 1531)])
def test_a_row_of_a_product_does_not_depend_on_its_company(
    level: str, dtype: torch.dtype, num_outputs: int, size: int
) -> None:
    """50 rows are more than one slab of x; so many tiles have every number of rows."""
    with at_level(level):
        x = random(50, size, dtype=dtype, device="cpu", seed=5)
        weight = random(num_outputs, size, dtype=dtype, device="cpu", seed=6)
        alone = torch.cat([torch.ops.sensorium.linear(row[None], weight, None) for row in x])
        for rows in (2, 3, 4, 5, 6, 7, 9, 11, 12, 16, 47, 50):
            together = torch.ops.sensorium.linear(x[:rows], weight, None)
            assert torch.equal(together, alone[:rows]), rows
